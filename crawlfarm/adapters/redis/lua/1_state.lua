-- The frontier, as core/frontier.py specifies it, over Redis. One call of the port is one
-- run of this script; nothing else writes these keys.
--
-- KEYS[1] P, the prefix of all keys        ARGV[1] the call        ARGV[2] its arguments, MessagePack
--
-- of the farm                              of one job, K = P .. job .. ':'
--   P turns   list: running jobs, in turn    K s    string: the counters, MessagePack (see open)
--   P leases  string: last lease id          K u#   hash: 8-byte page key -> depth and flags, in
--   P x       zset: lease -> expiry, ms               buckets small enough to stay packed
--   P h       hash: host -> in flight        K o    hash: outstanding page -> what it takes to ask
--   P own     set: hosts of the operator     K l    hash: leased page -> lease id
--   P w:HOST  set: jobs that set it aside    K n    hash: page -> log numbers of pages linking to it
--   P casc    set: jobs with a cascade       K q:H  zset: waiting pages of a host, by depth and arrival
--                                            K r    zset: hosts in line, by depth and turn
--   P wake    channel: something changed     K a    set: hosts set aside
--                                            K k    hash: fetched page -> its links, while needed
--                                            K d:#  set: pages with links kept, by depth
--                                            K c    list: pages whose links are to be lowered next
--                                            K sp   hash: unread page -> its spelling
--                                            K log  list: the job's log
local P = KEYS[1]
local rc = redis.call
local args = cmsgpack.unpack(ARGV[2])
local server = args.server or ''
local pack, unpack_msg = cmsgpack.pack, cmsgpack.unpack
local floor = math.floor
local STEP = 2 ^ 40 -- depth * STEP + a number that only grows: sorts by depth, then age
local LINKERS = 5
local LOAD = 48 -- pages a bucket: a packed hash is small, and searched from its start
local ENDED, KEPT, UNREAD, BROKEN, CASCADING, REFETCHING = 1, 2, 4, 8, 16, 32
local FLAGS = 64
local SEEDING_DEPTH = -1

local function has(flags, bit)
  return flags % (bit * 2) >= bit
end

-- Large lists go to Redis in pieces: unpack() fails on thousands.
local function in_pieces(command, key, list, from)
  for i = from or 1, #list, 1000 do
    rc(command, key, unpack(list, i, math.min(i + 999, #list)))
  end
end

-- ---- jobs: loaded once a call, saved at its end

local jobs = {}

local function load(id)
  local job = jobs[id]
  if job == nil then
    local packed = rc('GET', P .. id .. ':s')
    job = packed and unpack_msg(packed) or false
    if job then
      job.id, job.k = id, P .. id .. ':'
      job.fresh, job.line = {}, {}
    end
    jobs[id] = job
  end
  return job
end

-- A job opened on another Redis process is served to nobody until its master opens it
-- again: what was written last may be gone from this one.
local function running(id)
  local job = load(id)
  return job and job.state == 'running' and job.server == server and job or nil
end

local function save_jobs()
  for _, job in pairs(jobs) do
    if job then
      if #job.fresh > 0 then
        in_pieces('RPUSH', job.k .. 'log', job.fresh)
      end
      local key, id = job.k, job.id
      job.k, job.id, job.fresh, job.line = nil, nil, nil, nil
      rc('SET', P .. id .. ':s', pack(job))
      job.k, job.id, job.fresh, job.line = key, id, {}, {}
    end
  end
end

local function append(job, entry)
  job.logged = job.logged + 1
  job.fresh[#job.fresh + 1] = pack(entry)
  return job.logged
end

-- The URL of the page that log entry `seq` is about.
local function url_at(job, seq)
  local before = job.logged - #job.fresh
  local packed = seq > before and job.fresh[seq - before] or rc('LINDEX', job.k .. 'log', seq - 1)
  local entry = unpack_msg(packed)
  return entry[1] == 'p' and entry[3] or entry[2]
end

-- ---- outstanding things, by depth

local function count(job, depth, change)
  local now = (job.at[depth] or 0) + change
  job.at[depth] = now ~= 0 and now or nil
  job.outstanding = job.outstanding + change
end

local function lowest_outstanding(job)
  local lowest
  for depth in pairs(job.at) do
    if not lowest or depth < lowest then
      lowest = depth
    end
  end
  return lowest or job.depth
end

-- ---- pages seen: linear hashing, so that buckets keep their size while the job grows

local function bucket(job, key)
  local hash = struct.unpack('>I4', key)
  local number = hash % job.size
  if number < job.split then
    number = hash % (job.size * 2)
  end
  return job.k .. 'u' .. number
end

-- depth and flags of a page, or nil
local function seen(job, key)
  local value = rc('HGET', bucket(job, key), key)
  if value then
    value = tonumber(value)
    return floor(value / FLAGS), value % FLAGS
  end
end

local function mark(job, key, depth, flags)
  rc('HSET', bucket(job, key), key, depth * FLAGS + flags)
end

local function split_bucket(job)
  local from, to = job.k .. 'u' .. job.split, job.k .. 'u' .. (job.split + job.size)
  local all, moved, gone = rc('HGETALL', from), {}, {}
  for i = 1, #all, 2 do
    if struct.unpack('>I4', all[i]) % (job.size * 2) ~= job.split then
      moved[#moved + 1], moved[#moved + 2] = all[i], all[i + 1]
      gone[#gone + 1] = all[i]
    end
  end
  if #gone > 0 then
    rc('HSET', to, unpack(moved))
    rc('HDEL', from, unpack(gone))
  end
  job.split = job.split + 1
  if job.split == job.size then
    job.size, job.split = job.size * 2, 0
  end
end

local function see(job, key, depth, flags)
  mark(job, key, depth, flags)
  job.found = job.found + 1
  if job.found > LOAD * (job.size + job.split) then
    split_bucket(job)
  end
end
