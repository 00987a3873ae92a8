-- The frontier, as core/frontier.py specifies it, over Redis. One call of the port is one
-- run of this script; nothing else writes these keys.
--
-- KEYS[1] P, the prefix of all keys        ARGV[1] the call        ARGV[2] its arguments, MessagePack
--
-- of the farm                              of one job, K = P .. job .. ':'
--   P turns   list: running jobs, in turn    K s    string: the counters, MessagePack (see open)
--   P leases  string: last lease id          K u#   string: pages seen, a bucket: 8-byte keys,
--   P x       zset: lease -> expiry, ms               each with its depth and flags
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
local LOAD = 24 -- pages a bucket: small enough to be searched, and written, as one string
local ENDED, KEPT, UNREAD, BROKEN, CASCADING, REFETCHING = 1, 2, 4, 8, 16, 32
local LINKER = 64 -- the flags above count how many linkers of the page are noted
local FLAGS = 512
local ENTRY = 11
local HASHES = { 'o', 'l', 'n', 'k', 'sp' }
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

-- What lives for one call only.
local function attach(job, id)
  job.id, job.k = id, P .. id .. ':'
  job.fresh, job.line, job.cache, job.buckets, job.rewritten, job.marks = {}, {}, {}, {}, {}, {}
  for _, name in ipairs(HASHES) do
    job.cache[name] = { values = {}, dirty = {} }
  end
end

local function load(id)
  local job = jobs[id]
  if job == nil then
    local packed = rc('GET', P .. id .. ':s')
    job = packed and unpack_msg(packed) or false
    if job then
      attach(job, id)
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

-- ---- hashes of a job, read and written in batches: what a call touches is fetched once and
-- written back once. A value is false where there is none.

local function fetch(job, name, keys)
  local cache = job.cache[name]
  local missing = {}
  for _, key in ipairs(keys) do
    if cache.values[key] == nil then
      missing[#missing + 1] = key
      cache.values[key] = false
    end
  end
  for from = 1, #missing, 1000 do
    local to = math.min(from + 999, #missing)
    local values = rc('HMGET', job.k .. name, unpack(missing, from, to))
    for i = from, to do
      cache.values[missing[i]] = values[i - from + 1]
    end
  end
end

local function hget(job, name, key)
  local values = job.cache[name].values
  local value = values[key]
  if value == nil then
    value = rc('HGET', job.k .. name, key)
    values[key] = value
  end
  return value
end

local function hset(job, name, key, value)
  local cache = job.cache[name]
  cache.values[key] = value
  cache.dirty[key] = true
end

local function hdel(job, name, key)
  if job.cache[name].values[key] ~= false then
    hset(job, name, key, false)
  end
end

local function flush_hash(job, name)
  local cache, set, del = job.cache[name], {}, {}
  for key in pairs(cache.dirty) do
    local value = cache.values[key]
    if value then
      set[#set + 1], set[#set + 2] = key, value
    else
      del[#del + 1] = key
    end
  end
  in_pieces('HSET', job.k .. name, set)
  in_pieces('HDEL', job.k .. name, del)
  cache.dirty = {}
end

-- ---- pages seen: linear hashing, so that buckets keep their size while the job grows. A
-- bucket is a string of entries: 8 bytes of key, 3 of depth and flags. They are read with
-- one MGET and written with one MSET a call.

local function bucket_number(job, key)
  local hash = struct.unpack('>I4', key)
  local number = hash % job.size
  if number < job.split then
    number = hash % (job.size * 2)
  end
  return number
end

local function fetch_seen(job, keys)
  local numbers, names = {}, {}
  for _, key in ipairs(keys) do
    local number = bucket_number(job, key)
    if not job.buckets[number] then
      job.buckets[number] = ''
      numbers[#numbers + 1] = number
      names[#names + 1] = job.k .. 'u' .. number
    end
  end
  for from = 1, #names, 1000 do
    local to = math.min(from + 999, #names)
    local values = rc('MGET', unpack(names, from, to))
    for i = from, to do
      job.buckets[numbers[i]] = values[i - from + 1] or ''
    end
  end
end

local function bucket(job, number)
  local entries = job.buckets[number]
  if not entries then
    entries = rc('GET', job.k .. 'u' .. number) or ''
    job.buckets[number] = entries
  end
  return entries
end

local function put_bucket(job, number, entries)
  job.buckets[number] = entries
  job.rewritten[number] = true
end

-- Where the entry of a key begins in a bucket, or nil.
local function position(entries, key)
  local at = string.find(entries, key, 1, true)
  while at and at % ENTRY ~= 1 do
    at = string.find(entries, key, at + 1, true)
  end
  return at
end

-- depth and flags of a page, or nil
local function seen(job, key)
  local value = job.marks[key]
  if not value then
    local entries = bucket(job, bucket_number(job, key))
    local at = position(entries, key)
    if not at then
      return nil
    end
    local high, middle, low = string.byte(entries, at + 8, at + 10)
    value = (high * 256 + middle) * 256 + low
  end
  return floor(value / FLAGS), value % FLAGS
end

-- Buckets take up what was marked when they are written, or split.
local function mark(job, key, depth, flags)
  job.marks[key] = depth * FLAGS + flags
end

local function encoded(value)
  return string.char(floor(value / 65536), floor(value / 256) % 256, value % 256)
end

local function take_up_marks(job)
  for key, value in pairs(job.marks) do
    local number = bucket_number(job, key)
    local entries = bucket(job, number)
    local at = position(entries, key)
    put_bucket(job, number, string.sub(entries, 1, at + 7) .. encoded(value) .. string.sub(entries, at + 11))
  end
  job.marks = {}
end

local function split_bucket(job)
  take_up_marks(job)
  local from, to = job.split, job.split + job.size
  local entries, stay, move = bucket(job, from), {}, {}
  for at = 1, #entries, ENTRY do
    local list = struct.unpack('>I4', entries, at) % (job.size * 2) == from and stay or move
    list[#list + 1] = string.sub(entries, at, at + ENTRY - 1)
  end
  put_bucket(job, from, table.concat(stay))
  put_bucket(job, to, table.concat(move))
  job.split = job.split + 1
  if job.split == job.size then
    job.size, job.split = job.size * 2, 0
  end
end

local function see(job, key, depth, flags)
  local number = bucket_number(job, key)
  put_bucket(job, number, bucket(job, number) .. key .. encoded(depth * FLAGS + flags))
  job.found = job.found + 1
  if job.found > LOAD * (job.size + job.split) then
    split_bucket(job)
  end
end

local function flush_seen(job)
  take_up_marks(job)
  local pairs_ = {}
  for number in pairs(job.rewritten) do
    pairs_[#pairs_ + 1] = job.k .. 'u' .. number
    pairs_[#pairs_ + 1] = job.buckets[number]
  end
  for from = 1, #pairs_, 1000 do
    rc('MSET', unpack(pairs_, from, math.min(from + 999, #pairs_)))
  end
  job.rewritten = {}
end

-- ---- expiries of all jobs: also written once a call, and before they are read

local expiries, expired = {}, {}

local function expiry_of(job, key, lease)
  return string.format('%015d', lease) .. key .. job.id
end

local function set_expiry(at, expiry)
  expiries[#expiries + 1], expiries[#expiries + 2] = at, expiry
end

local function drop_expiry(expiry)
  expired[#expired + 1] = expiry
end

local function flush_expiries()
  in_pieces('ZADD', P .. 'x', expiries)
  in_pieces('ZREM', P .. 'x', expired)
  expiries, expired = {}, {}
end

-- ---- saving

local function flush(job)
  if #job.fresh > 0 then
    in_pieces('RPUSH', job.k .. 'log', job.fresh)
    job.fresh = {}
  end
  flush_seen(job)
  for _, name in ipairs(HASHES) do
    flush_hash(job, name)
  end
end

local VOLATILE = { 'k', 'id', 'fresh', 'line', 'cache', 'buckets', 'rewritten', 'marks' }

local function save_jobs()
  for id, job in pairs(jobs) do
    if job then
      flush(job)
      for _, name in ipairs(VOLATILE) do
        job[name] = nil
      end
      rc('SET', P .. id .. ':s', pack(job))
    end
  end
end
