-- ---- the life of a page
--
-- A child is {key, url, spelling, skip}. An outstanding page is
-- {url, spelling, host, parent, losses, refetch}.

local function host_of(url)
  return string.match(url, '^%w+://([^/?#]*)')
end

local function outstanding_page(job, key)
  return unpack_msg(hget(job, 'o', key))
end

local function keep_page(job, key, page)
  hset(job, 'o', key, pack(page))
end

-- Log a page's disposition. `fields` are those a worker reports, or nil.
local function dispose(job, key, url, depth, parent, disposition, fields)
  local f = fields or {}
  local status = f.status or 0
  local broken = string.sub(disposition, 1, 7) == 'failed:' or status >= 400
  local linked = {}
  if broken then
    local numbers = hget(job, 'n', key) or ''
    for i = 1, #numbers, 4 do
      linked[#linked + 1] = url_at(job, struct.unpack('>I4', numbers, i))
    end
  else
    hdel(job, 'n', key)
  end
  job.counts[disposition] = (job.counts[disposition] or 0) + 1
  local seq = append(job, {
    'p', depth, url, disposition, parent, status, f.final_url or '', f.title or '',
    f.content_type or '', f.bytes or 0, f.elapsed_ms or 0, linked,
  })
  return seq, broken
end

-- Whether it has its disposition: it ended, or is out again for its links.
local function disposed(flags)
  return has(flags, ENDED) or has(flags, REFETCHING)
end

-- Note a page that links to this one, if it may have to be told. Returns the new flags.
local function note_linker(job, key, url, depth, flags, parent, seq)
  if flags >= LINKERS * LINKER or parent == '' or (disposed(flags) and not has(flags, BROKEN)) then
    return flags
  end
  local numbers = hget(job, 'n', key) or ''
  local number = struct.pack('>I4', seq)
  for i = 1, #numbers, 4 do
    if string.sub(numbers, i, i + 3) == number then
      return flags
    end
  end
  hset(job, 'n', key, numbers .. number)
  mark(job, key, depth, flags + LINKER)
  if disposed(flags) then
    append(job, { 'l', url, parent })
  end
  return flags + LINKER
end

-- A fetched page came nearer: its links are due, from memory or once more from the site.
local function reopen(job, key, child, depth, was, flags, parent, moved)
  if has(flags, KEPT) and hget(job, 'k', key) then
    rc('RPUSH', job.k .. 'c', key)
    rc('SADD', P .. 'casc', job.id)
    job.cascading = job.cascading + 1
    mark(job, key, depth, flags + CASCADING)
    count(job, depth, 1)
    return
  end
  mark(job, key, depth, flags)
  if not has(flags, UNREAD) or was ~= job.depth - 1 then
    return
  end
  if job.cutting ~= '' then
    job.flawed = true
    return
  end
  local host = host_of(child[2])
  local spelling = hget(job, 'sp', key) or ''
  hdel(job, 'sp', key)
  mark(job, key, depth, flags - ENDED - UNREAD + REFETCHING)
  keep_page(job, key, { child[2], spelling, host, parent, 0, moved })
  job.queued = job.queued + 1
  count(job, depth, 1)
  push(job, host, depth, key)
end

local function lower(job, child, depth, was, flags, parent)
  local key = child[1]
  local moved = disposed(flags) and append(job, { 'm', child[2], depth, parent })
  if has(flags, ENDED) then
    if has(flags, KEPT) then
      if rc('SREM', job.k .. 'd:' .. was, key) == 1 then
        rc('SADD', job.k .. 'd:' .. depth, key)
        job.kept[depth] = true
      end
    end
    if has(flags, CASCADING) then
      count(job, was, -1)
      count(job, depth, 1)
      mark(job, key, depth, flags)
    else
      reopen(job, key, child, depth, was, flags, parent, moved)
    end
    return
  end
  count(job, was, -1)
  count(job, depth, 1)
  mark(job, key, depth, flags)
  local page = outstanding_page(job, key)
  page[4] = parent
  keep_page(job, key, page)
  if not hget(job, 'l', key) then
    push(job, page[3], depth, key)
  end
end

-- A link leads to `child`. `seq` is the number of a log entry about the page it stands on.
local function meet(job, child, depth, parent, seq)
  local key, url = child[1], child[2]
  local was, flags = seen(job, key)
  if was then
    flags = note_linker(job, key, url, was, flags, parent, seq)
    if depth < was then
      lower(job, child, depth, was, flags, parent)
    end
    return
  end
  local skip = child[4] ~= '' and child[4] or job.cutting
  if skip ~= '' then
    see(job, key, depth, ENDED)
    dispose(job, key, url, depth, parent, 'skipped:' .. skip)
    return
  end
  see(job, key, depth, parent ~= '' and LINKER or 0)
  local host = host_of(url)
  keep_page(job, key, { url, child[3], host, parent, 0, 0 })
  if parent ~= '' then
    hset(job, 'n', key, struct.pack('>I4', seq))
  end
  count(job, depth, 1)
  job.queued = job.queued + 1
  push(job, host, depth, key)
end

-- ---- links kept while a depth may still fall

local function free_links(job)
  local over = job.state ~= 'running'
  local final = over and job.depth or job.floor + 1
  for depth in pairs(job.kept) do
    if over or depth <= final then
      for _, key in ipairs(rc('SMEMBERS', job.k .. 'd:' .. depth)) do
        local _, flags = seen(job, key)
        if not has(flags, CASCADING) then
          hdel(job, 'k', key)
        end
      end
      rc('DEL', job.k .. 'd:' .. depth)
      job.kept[depth] = nil
    end
  end
end

-- Whether a page at `depth` must keep its links.
local function keeps_links(job, depth)
  return depth > job.floor + 1
end

local function keep_links(job, key, depth)
  rc('SADD', job.k .. 'd:' .. depth, key)
  job.kept[depth] = true
end

local function leave(job, depth)
  count(job, depth, -1)
  local lowest = lowest_outstanding(job)
  if lowest > job.floor then
    job.floor = lowest
    free_links(job)
  end
end

local function cascade(job, budget)
  while job.cascading > 0 and budget > 0 do
    local key = rc('LPOP', job.k .. 'c')
    local depth, flags = seen(job, key)
    job.cascading = job.cascading - 1
    mark(job, key, depth, flags - CASCADING)
    local kept = unpack_msg(hget(job, 'k', key))
    local seq, url, children = kept[1], kept[2], kept[3]
    budget = budget - 1 - #children
    if depth < job.depth - 1 then
      for _, child in ipairs(children) do
        meet(job, child, depth + 1, url, seq)
      end
    end
    if keeps_links(job, depth) then
      keep_links(job, key, depth)
    else
      hdel(job, 'k', key)
    end
    leave(job, depth)
  end
  if job.cascading == 0 then
    rc('SREM', P .. 'casc', job.id)
  end
end

-- ---- ends

local function retire(job)
  rc('LREM', P .. 'turns', 1, job.id)
  rc('SREM', P .. 'casc', job.id)
end

-- A leased page stops to be: waiting again or ended, as the caller does next.
local function unlease(job, key, page)
  local lease = hget(job, 'l', key)
  hdel(job, 'l', key)
  drop_expiry(expiry_of(job, key, tonumber(lease)))
  job.leased = job.leased - 1
  if page[6] == 0 then
    job.fetching = job.fetching - 1
  end
end

local give_up_all

-- First half of the one way in which an outstanding page ends. Returns a log number for it.
local function settle(job, key, page, depth, disposition, fields, leased)
  if leased then
    unlease(job, key, page)
  else
    job.queued = job.queued - 1
    rc('ZREM', job.k .. 'q:' .. page[3], key)
  end
  hdel(job, 'o', key)
  if page[6] ~= 0 then
    return page[6], nil
  end
  return dispose(job, key, page[1], depth, page[4], disposition, fields)
end

-- Second half: it stops to be outstanding.
local function close(job, depth)
  leave(job, depth)
  if job.max > 0 and (job.counts.fetched or 0) >= job.max and job.cutting == '' then
    job.cutting = 'page_limit'
    give_up_all(job, 'skipped:page_limit', false)
  end
end

local function give_up(job, key, page, depth, disposition, leased)
  local refetch = page[6] ~= 0
  if refetch then
    job.flawed = true
  end
  local _, flags = seen(job, key)
  local _, broken = settle(job, key, page, depth, disposition, nil, leased)
  mark(job, key, depth, flags + ENDED - (refetch and REFETCHING or 0) + (broken and BROKEN or 0))
  close(job, depth)
end

-- In the order of their URLs, so that the log does not depend on how Redis keeps a hash.
give_up_all = function(job, disposition, with_leased)
  flush(job)
  local all, pages = rc('HGETALL', job.k .. 'o'), {}
  for i = 1, #all, 2 do
    local lease = hget(job, 'l', all[i])
    if with_leased or not lease then
      pages[#pages + 1] = { all[i], unpack_msg(all[i + 1]), lease }
    end
  end
  table.sort(pages, function(a, b)
    return a[2][1] < b[2][1]
  end)
  for _, p in ipairs(pages) do
    local depth = seen(job, p[1])
    give_up(job, p[1], p[2], depth, disposition, p[3])
  end
end

local function finish_if_done(job)
  if job.state == 'running' and job.outstanding == 0 then
    job.state = 'done'
    free_links(job)
    retire(job)
  end
end

local function settled(job, budget)
  if job.state == 'running' then
    cascade(job, budget)
    finish_if_done(job)
  end
end
