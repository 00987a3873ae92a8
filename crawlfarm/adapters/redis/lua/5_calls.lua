-- ---- the calls of the port; each answers with MessagePack

local function as_set(list)
  local set = {}
  for _, name in ipairs(list) do
    set[name] = true
  end
  return set
end

-- Read in a few commands what the finished pages and their links are about.
local function prefetch(finished)
  local pages, links = {}, {}
  for _, f in ipairs(finished) do
    local job = running(f.job)
    if job and not f.seeding then
      pages[job] = pages[job] or {}
      links[job] = links[job] or {}
      table.insert(pages[job], f.key)
      table.insert(links[job], f.key)
      for _, child in ipairs(f.children or {}) do
        table.insert(links[job], child[1])
      end
    end
  end
  for job, keys in pairs(pages) do
    fetch(job, 'l', keys)
    fetch(job, 'o', keys)
    fetch(job, 'n', links[job])
    fetch_seen(job, links[job])
  end
end

local calls = {}
local reads = { events = true, status = true, audit = true, has = true }

local function job_keys(job)
  local names = { 's', 'o', 'l', 'n', 'r', 'a', 'k', 'c', 'sp', 'log' }
  for number = 0, job.size + job.split - 1 do
    names[#names + 1] = 'u' .. number
  end
  for depth in pairs(job.kept) do
    names[#names + 1] = 'd:' .. depth
  end
  return names
end

local function drop(job)
  for _, name in ipairs(job_keys(job)) do
    rc('UNLINK', job.k .. name)
  end
  jobs[job.id] = false
end

local function create(a)
  local job = {
    spec = a.spec, depth = a.depth, max = a.max, spider = a.spider, base = a.base,
    token = a.token, run = a.run, server = server, state = 'running',
    found = 0, queued = 0, leased = 0, fetching = 0, outstanding = 1, cascading = 0, aside = 0,
    seeding = true, seeding_lease = 0, cutting = '', flawed = false, floor = SEEDING_DEPTH,
    at = { [SEEDING_DEPTH] = 1 }, counts = {}, kept = {},
    turn = 0, arrivals = 0, logged = 0, size = 1, split = 0,
  }
  attach(job, a.job)
  jobs[a.job] = job
  rc('LREM', P .. 'turns', 0, a.job)
  rc('RPUSH', P .. 'turns', a.job)
  return job
end

-- What every counter says, and what is there.
local function findings(job)
  flush(job)
  local outstanding, leased, fetching = rc('HGETALL', job.k .. 'o'), 0, 0
  local queued, hosts_seen = 0, {}
  for i = 1, #outstanding, 2 do
    local page = unpack_msg(outstanding[i + 1])
    hosts_seen[page[3]] = true
    if hget(job, 'l', outstanding[i]) then
      leased = leased + 1
      if page[6] == 0 then
        fetching = fetching + 1
      end
    end
  end
  for host in pairs(hosts_seen) do
    queued = queued + rc('ZCARD', job.k .. 'q:' .. host)
  end
  local found, disposed, ended = 0, 0, 0
  for number = 0, job.size + job.split - 1 do
    local entries = bucket(job, number)
    found = found + #entries / ENTRY
    for at = 1, #entries, ENTRY do
      if has(string.byte(entries, at + 10) % FLAGS, ENDED) then
        ended = ended + 1
      end
    end
  end
  for _, n in pairs(job.counts) do
    disposed = disposed + n
  end
  local at = 0
  for _, n in pairs(job.at) do
    at = at + n
  end
  local seeding = job.seeding and 1 or 0
  return {
    { 'queued pages', job.queued, queued },
    { 'leased pages', job.leased, leased },
    { 'leases', job.leased, rc('HLEN', job.k .. 'l') },
    { 'pages being fetched', job.fetching, fetching },
    { 'pages found', job.found, found },
    { 'pages neither outstanding nor ended', 0, found - ended - #outstanding / 2 },
    { 'log entries', job.logged, rc('LLEN', job.k .. 'log') + #job.fresh },
    { 'cascading pages', job.cascading, rc('LLEN', job.k .. 'c') },
    { 'outstanding by depth', job.outstanding, at },
    { 'outstanding', job.outstanding, job.queued + job.leased + job.cascading + seeding },
  }
end

local function sound(job)
  for _, finding in ipairs(findings(job)) do
    if finding[2] ~= finding[3] then
      return false
    end
  end
  return true
end

-- The job is on a Redis process that may lack its last writes: go on from what is there,
-- under a new run, or from the seed where the rest does not agree with itself.
local function rewind(job, a)
  local run = math.max(job.run + 1, a.run)
  if not sound(job) then
    for _, packed in ipairs(rc('HVALS', job.k .. 'o')) do
      rc('UNLINK', job.k .. 'q:' .. unpack_msg(packed)[3])
    end
    local leased = rc('HGETALL', job.k .. 'l')
    for i = 1, #leased, 2 do
      drop_expiry(expiry_of(job, leased[i], tonumber(leased[i + 1])))
    end
    drop(job)
    job = create(a)
    job.run = run
    return job
  end
  job.run, job.server = run, server
  for _, key in ipairs(rc('HKEYS', job.k .. 'l')) do
    local page, depth = outstanding_page(job, key), seen(job, key)
    give_back(job, key, page, depth)
    host_freed(page[3])
  end
  return job
end

-- job, spec, depth, max, spider, base, token, run -> {run, seeding lease or 0} or 'fenced'
function calls.open(a)
  local job = load(a.job)
  if not job then
    job = create(a)
  elseif fence(job, a.token) then
    return 'fenced'
  elseif job.state == 'running' and job.server ~= server then
    job = rewind(job, a)
  end
  changed = true
  if job.state == 'running' and job.seeding then
    job.seeding_lease = next_lease()
    return { job.run, job.seeding_lease }
  end
  return { job.run, 0 }
end

-- job -> whether it is here
function calls.has(a)
  return rc('EXISTS', P .. a.job .. ':s') == 1
end

-- finished, want, jobs or false, spiders or false
-- -> {verdicts, leases, specs by job, running jobs}
function calls.exchange(a)
  local verdicts, leases, specs = {}, {}, {}
  prefetch(a.finished)
  for i, f in ipairs(a.finished) do
    verdicts[i] = finish(f)
    changed = changed or verdicts[i] == DONE
  end
  reap()
  local running_ids, served = {}, {}
  local only, spiders = a.jobs and as_set(a.jobs), a.spiders and as_set(a.spiders)
  for _, id in ipairs(rc('LRANGE', P .. 'turns', 0, -1)) do
    local job = (not only or only[id]) and running(id)
    if job then
      running_ids[#running_ids + 1] = id
      if a.want > 0 and (not spiders or spiders[job.spider]) then
        served[#served + 1] = job
      end
    end
  end
  while #served > 0 and #leases < a.want do
    local still = {}
    for _, job in ipairs(served) do
      if #leases < a.want and lease_next(job, leases, specs) then
        still[#still + 1] = job
      end
    end
    served = still
  end
  if #running_ids > 1 or a.jobs then
    -- The job that waited longest is first in the next exchange.
    for i, lease in ipairs(leases) do
      if not leases[i + 1] or leases[i + 1][1] ~= lease[1] then
        rc('LREM', P .. 'turns', 1, lease[1])
        rc('RPUSH', P .. 'turns', lease[1])
      end
    end
  end
  return { verdicts, leases, specs, running_ids }
end

-- refs -> a list of booleans
function calls.extend(a)
  local kept = {}
  for i, ref in ipairs(a.refs) do
    local job = leased_page(ref)
    if job then
      set_expiry(now + lease_ms, expiry_of(job, ref.key, ref.lease))
    end
    kept[i] = job ~= nil
  end
  return kept
end

-- refs -> how many
function calls.release(a)
  local taken = 0
  for _, ref in ipairs(a.refs) do
    local job, page, depth = leased_page(ref)
    if job then
      give_back(job, ref.key, page, depth)
      host_freed(page[3])
      settled(job, budget)
      taken = taken + 1
    end
  end
  changed = taken > 0
  return taken
end

function calls.reap()
  return reap()
end

-- job, token, reason -> boolean or 'fenced'
function calls.cancel(a)
  local job = load(a.job)
  if not job then
    return false
  end
  if fence(job, a.token) then
    return 'fenced'
  end
  if job.state ~= 'running' then
    return false
  end
  local busy = {}
  flush(job)
  for _, key in ipairs(rc('HKEYS', job.k .. 'l')) do
    busy[#busy + 1] = outstanding_page(job, key)[3]
  end
  table.sort(busy)
  job.cutting, job.flawed = a.reason, true
  give_up_all(job, 'skipped:' .. a.reason, true)
  for _, key in ipairs(rc('LRANGE', job.k .. 'c', 0, -1)) do
    local depth, flags = seen(job, key)
    count(job, depth, -1)
    mark(job, key, depth, flags - CASCADING)
  end
  rc('DEL', job.k .. 'c')
  job.cascading = 0
  if job.seeding then
    job.seeding = false
    count(job, SEEDING_DEPTH, -1)
  end
  job.state = a.reason == 'cancelled' and 'cancelled' or 'done'
  free_links(job)
  for _, host in ipairs(busy) do
    host_freed(host)
  end
  retire(job)
  changed = true
  return true
end

-- job, token -> true or 'fenced'
function calls.forget(a)
  local job = load(a.job)
  if not job then
    return true
  end
  if fence(job, a.token) then
    return 'fenced'
  end
  if job.state == 'running' then
    return true
  end
  drop(job)
  changed = true
  return true
end

-- job, after, limit -> {run, state, final depth} and the entries as they are stored; or false
function calls.events(a)
  local job = load(a.job)
  if not job then
    return false
  end
  local entries = rc('LRANGE', job.k .. 'log', a.after, a.after + a.limit - 1)
  local final = job.state == 'running' and job.floor + 1 or job.depth
  table.insert(entries, 1, pack({ job.run, job.state, final }))
  return entries
end

-- job -> the counters, or false
function calls.status(a)
  local job = load(a.job)
  if not job then
    return false
  end
  return {
    job.run, job.state, job.found, job.queued, job.leased, job.floor, job.depth,
    job.counts, job.flawed,
  }
end

-- job -> {{what, counted, there are}, ...}
function calls.audit(a)
  local job = load(a.job)
  return job and findings(job) or {}
end

local a = args
if a.now then
  now = a.now
else
  local time = rc('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
lease_ms, attempts, budget, limit = a.lease_ms, a.attempts, a.cascade, a.host_concurrency
local answer = calls[ARGV[1]](a)
if not reads[ARGV[1]] then
  save_jobs()
  save_hosts()
  flush_expiries()
  if last_lease then
    rc('SET', P .. 'leases', last_lease)
  end
end
if changed then
  rc('PUBLISH', P .. 'wake', '')
end
if ARGV[1] == 'events' and answer then
  return answer -- stored packed already
end
return pack(answer)
