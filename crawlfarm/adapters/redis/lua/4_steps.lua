-- ---- what a call is made of: finishing, reaping, leasing

local DONE, STALE, LINKS_WANTED = 'done', 'stale', 'links_wanted'
local now, lease_ms, attempts, budget -- set below, from the arguments
local changed = false

local last_lease

local function next_lease()
  last_lease = (last_lease or tonumber(rc('GET', P .. 'leases') or 0)) + 1
  return last_lease
end

local function fence(job, token)
  if token < job.token then
    return true
  end
  job.token = token
  return false
end

-- The page under a lease that is still valid: job, page, depth, flags.
local function leased_page(ref)
  local job = running(ref.job)
  if not job or job.run ~= ref.run then
    return nil
  end
  local lease = hget(job, 'l', ref.key)
  if not lease or tonumber(lease) ~= ref.lease then
    return nil
  end
  local depth, flags = seen(job, ref.key)
  return job, outstanding_page(job, ref.key), depth, flags
end

local function give_back(job, key, page, depth)
  if job.cutting ~= '' then
    give_up(job, key, page, depth, 'skipped:' .. job.cutting, true)
    return
  end
  unlease(job, key, page)
  job.queued = job.queued + 1
  push(job, page[3], depth, key)
end

local function seed(f)
  local job = running(f.job)
  if not job or not job.seeding or job.seeding_lease ~= f.lease then
    return STALE
  end
  for _, child in ipairs(f.children or {}) do
    meet(job, child, 0, '', 0)
  end
  job.seeding = false
  leave(job, SEEDING_DEPTH)
  return DONE
end

local function finish(f)
  if f.seeding then
    return seed(f)
  end
  local job, page, depth, flags = leased_page(f)
  if not job then
    return STALE
  end
  local key, fetched, last = f.key, f.disposition == 'fetched', job.depth - 1
  if not f.children and fetched and depth < last then
    set_expiry(now + lease_ms, expiry_of(job, key, f.lease))
    return LINKS_WANTED
  end
  local host, refetch = page[3], page[6] ~= 0
  if f.own then
    host_state(host).own = true
    rc('SADD', P .. 'own', host)
  end
  if depth == 0 and not refetch and f.base then
    job.base = f.base
  end
  if refetch and not fetched then
    job.flawed = true -- its disposition stands, but the pages it links to may be missing
  end
  local seq, broken = settle(job, key, page, depth, f.disposition, f, true)
  flags = flags + ENDED - (refetch and REFETCHING or 0) + (broken and BROKEN or 0)
  local children = f.children or {}
  if fetched then
    if not f.children then
      flags = flags + (refetch and 0 or UNREAD)
      if page[2] ~= '' and not refetch then
        hset(job, 'sp', key, page[2])
      end
    elseif #children > 0 and keeps_links(job, depth) then
      flags = flags + KEPT
      hset(job, 'k', key, pack({ seq, page[1], children }))
      keep_links(job, key, depth)
    end
  end
  mark(job, key, depth, flags)
  if depth < last then
    for _, child in ipairs(children) do
      meet(job, child, depth + 1, page[1], seq)
    end
  end
  close(job, depth)
  host_freed(host)
  return DONE
end

local function reap()
  local lost = 0
  flush_expiries()
  while true do
    local due = rc('ZRANGEBYSCORE', P .. 'x', '-inf', now, 'LIMIT', 0, 100)
    if #due == 0 then
      break
    end
    for _, expiry in ipairs(due) do
      rc('ZREM', P .. 'x', expiry)
      local key, id = string.sub(expiry, 16, 23), string.sub(expiry, 24)
      local job = running(id)
      local lease = job and hget(job, 'l', key)
      if lease and tonumber(lease) == tonumber(string.sub(expiry, 1, 15)) then
        lost = lost + 1
        local page, depth = outstanding_page(job, key), seen(job, key)
        page[5] = page[5] + 1
        if page[5] >= attempts then
          give_up(job, key, page, depth, 'failed:worker_lost', true)
        else
          keep_page(job, key, page)
          give_back(job, key, page, depth)
        end
        host_freed(page[3])
      end
    end
  end
  local cascades = rc('EXISTS', P .. 'casc') == 1
  for _, id in ipairs(rc('LRANGE', P .. 'turns', 0, -1)) do
    if jobs[id] or (cascades and rc('SISMEMBER', P .. 'casc', id) == 1) then
      changed = changed or cascades
      local job = running(id)
      if job then
        settled(job, budget)
      end
    end
  end
  changed = changed or lost > 0
  return lost
end

-- Lease one page of the job; false if it has none that may go out now.
local function lease_next(job, leases, specs)
  if job.max > 0 and (job.counts.fetched or 0) + job.fetching >= job.max then
    return false
  end
  local key = pop(job)
  if not key then
    return false
  end
  local page, depth = outstanding_page(job, key), seen(job, key)
  local lease = next_lease()
  hset(job, 'l', key, lease)
  set_expiry(now + lease_ms, expiry_of(job, key, lease))
  job.queued = job.queued - 1
  job.leased = job.leased + 1
  if page[6] == 0 then
    job.fetching = job.fetching + 1
  end
  local host = host_state(page[3])
  host.busy = host.busy + 1
  host.changed = true
  leases[#leases + 1] = { job.id, lease, page[1], page[2], depth, page[5] + 1 }
  specs[job.id] = { job.run, job.base, job.spec }
  return true
end
