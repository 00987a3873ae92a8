-- ---- hosts: in flight over all jobs; each job's line of hosts with pages that wait

local hosts = {}
local limit -- requests in flight a host may have

local function host_state(name)
  local host = hosts[name]
  if not host then
    host = {
      busy = tonumber(rc('HGET', P .. 'h', name) or 0),
      own = rc('SISMEMBER', P .. 'own', name) == 1,
      waited = rc('EXISTS', P .. 'w:' .. name) == 1,
    }
    hosts[name] = host
  end
  return host
end

local function save_hosts()
  for name, host in pairs(hosts) do
    if host.changed then
      if host.busy > 0 then
        rc('HSET', P .. 'h', name, host.busy)
      else
        rc('HDEL', P .. 'h', name)
      end
    end
  end
end

local function may_ask(name, id)
  local host = host_state(name)
  if host.own or host.busy < limit then
    return true
  end
  rc('SADD', P .. 'w:' .. name, id)
  host.waited = true
  return false
end

-- A host's place in a job's line: its depth, false without one; asked of Redis once a call.
local function place(job, name)
  local at = job.line[name]
  if at == nil then
    local score = rc('ZSCORE', job.k .. 'r', name)
    at = score and floor(tonumber(score) / STEP)
    if not at then
      at = false
    end
    job.line[name] = at
  end
  return at
end

local function line_up(job, name, depth)
  job.turn = job.turn + 1
  rc('ZADD', job.k .. 'r', depth * STEP + job.turn, name)
  job.line[name] = depth
end

-- key and depth of the page that is first at a host
local function head(job, name)
  local first = rc('ZRANGE', job.k .. 'q:' .. name, 0, 0, 'WITHSCORES')
  if first[1] then
    return first[1], floor(tonumber(first[2]) / STEP)
  end
end

local function push(job, name, depth, key)
  job.arrivals = job.arrivals + 1
  rc('ZADD', job.k .. 'q:' .. name, depth * STEP + job.arrivals, key)
  local at = place(job, name)
  if at and at <= depth then
    return
  end
  if not at and job.aside > 0 and rc('SISMEMBER', job.k .. 'a', name) == 1 then
    return
  end
  line_up(job, name, depth)
end

local function line_up_next(job, name)
  local key, depth = head(job, name)
  if key then
    line_up(job, name, depth)
  end
end

local function unblock(job, name)
  job.aside = job.aside - rc('SREM', job.k .. 'a', name)
  if not place(job, name) then
    line_up_next(job, name)
  end
end

-- The key of the page to lease next, or nil.
local function pop(job)
  while true do
    local first = rc('ZRANGE', job.k .. 'r', 0, 0, 'WITHSCORES')
    local name = first[1]
    if not name then
      return nil
    end
    local stood = floor(tonumber(first[2]) / STEP)
    rc('ZREM', job.k .. 'r', name)
    job.line[name] = false
    local key, depth = head(job, name)
    if key then
      if depth > stood then
        line_up(job, name, depth)
      elseif may_ask(name, job.id) then
        rc('ZREM', job.k .. 'q:' .. name, key)
        line_up_next(job, name)
        return key
      else
        job.aside = job.aside + rc('SADD', job.k .. 'a', name)
      end
    end
  end
end

local function host_freed(name)
  local host = host_state(name)
  host.busy = host.busy - 1
  host.changed = true
  if host.waited then
    local waiting = rc('SMEMBERS', P .. 'w:' .. name)
    rc('DEL', P .. 'w:' .. name)
    host.waited = false
    for _, id in ipairs(waiting) do
      local job = running(id)
      if job then
        unblock(job, name)
      end
    end
  end
end
