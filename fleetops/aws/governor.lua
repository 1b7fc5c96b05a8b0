-- One step of one bucket, atomically. `governor.py` says what it all means; all numbers below are ARGV's or seconds.
-- KEYS: bucket, minutes, index of the account, its limits, its lessons, who waits (person, run, poll)
-- ARGV: take | leave | throttled | went, the time ("" for ours), "region operation", rate to start with, ceiling,
--       then for take and leave: class that counts it, class as which it queues (1 person, 2 run, 3 poll), the
--       caller's id, milliseconds that it has waited, "1" if it goes in any case

local LEAST_BURST, BURST_SECONDS = 3, 1 -- a bucket holds a second's worth of calls, and never less than three
local LEFT = { 0, 0.2, 0.4 } -- of a full bucket, by class: what is left for those above
local DEBT = 0.5 -- of a full bucket: so far below nothing a person may go
local NEVER_LONGER = 5 -- seconds that a class waits for its next call, whoever else calls
local DOWN, LEAST_RATE, WINDOW = 0.7, 0.5, 1 -- a throttle's factor, calls a second, seconds between two cuts
-- Growth a second while the rate is used; slow near the last refusal, between these shares of it, and then forget it.
local UP, UP_SLOWLY, NEAR, PAST = 0.1, 0.01, 0.8, 1.25
local TOLD = 1.25 -- growth by this is a lesson
local LEASE = 2 -- seconds after which a caller that does not come back waits no more
local IDLE, COUNTED, KEPT, LIMITS = 3600, 7200, 604800, 2592000 -- seconds
local LESSONS, SLOTS = 100, 120

local bucket, minutes, index, limits, lessons = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local what, name = ARGV[1], ARGV[3]
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local ceiling = tonumber(ARGV[5])
local limit = tonumber(redis.call('HGET', limits, name) or nil)
if limit then
  ceiling = limit
  redis.call('EXPIRE', limits, LIMITS)
end

local FIELDS = { 'tokens', 'at', 'rate', 'refused', 'learned_at', 'cut_at', 'grown_at', 'busy_at', 'told', 'served2', 'served3' }
local state = {}
for position, value in ipairs(redis.call('HMGET', bucket, unpack(FIELDS))) do
  state[FIELDS[position]] = tonumber(value)
end
local rate = math.min(state.rate or tonumber(ARGV[4]), ceiling) -- a limit hides what was learned, and does not change it
local burst = math.max(LEAST_BURST, rate * BURST_SECONDS)
local debt = burst * DEBT
local tokens = math.min(burst, (state.tokens or burst) + math.max(0, now - (state.at or now)) * rate)

local function save()
  state.tokens, state.at = tokens, now
  local pairs_ = {}
  for field, value in pairs(state) do
    pairs_[#pairs_ + 1] = field
    pairs_[#pairs_ + 1] = string.format('%.17g', value)
  end
  redis.call('HSET', bucket, unpack(pairs_))
  redis.call('EXPIRE', bucket, IDLE)
  redis.call('ZADD', index, now, name)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now - COUNTED)
  redis.call('EXPIRE', index, COUNTED)
end

-- Counts in this minute: person, run, poll, throttled, waited by each, milliseconds waited.
local function count(adds)
  local minute = math.floor(now / 60)
  local slot = tostring(minute % SLOTS)
  local values = { minute, 0, 0, 0, 0, 0, 0, 0, 0 }
  local position = 0
  for value in string.gmatch(redis.call('HGET', minutes, slot) or '', '%d+') do
    position = position + 1
    if position == 1 and tonumber(value) ~= minute then break end
    values[position] = tonumber(value)
  end
  for place, add in pairs(adds) do
    values[place + 1] = values[place + 1] + add
  end
  for place, value in ipairs(values) do
    values[place] = string.format('%d', value)
  end
  redis.call('HSET', minutes, slot, table.concat(values, ','))
  redis.call('EXPIRE', minutes, COUNTED)
end

local function learn(after)
  redis.call('LPUSH', lessons, string.format('%.6f,%s,%.6g,%.6g', now, name, state.told or rate, after))
  redis.call('LTRIM', lessons, 0, LESSONS - 1)
  redis.call('EXPIRE', lessons, KEPT)
  state.told, state.learned_at = after, now
end

if what == 'throttled' then
  count({ [4] = 1 })
  tokens = math.min(tokens, 0) -- AWS's bucket is empty, so ours is
  if math.abs(now - (state.cut_at or 0)) >= WINDOW then
    local after = math.max(math.min(LEAST_RATE, rate), rate * DOWN)
    state.told, state.refused, state.cut_at, state.grown_at = rate, rate, now, now
    if after < rate then learn(after) end
    rate, state.rate = after, after
  end
  save()
  return { '1', '0', string.format('%.6g', rate) }
end

if what == 'went' then
  local passed = math.min(1, math.max(0, now - (state.grown_at or now)))
  if math.abs(now - (state.busy_at or 0)) <= 2 and rate < ceiling then
    local speed = UP
    local refused = state.refused or 0
    if refused > 0 and rate >= refused * PAST then
      state.refused = 0
    elseif refused > 0 and rate >= refused * NEAR then
      speed = UP_SLOWLY
    end
    local after = math.min(ceiling, rate * (1 + speed * passed))
    state.told = state.told or rate
    if after >= state.told * TOLD or (after == ceiling and after > rate) then learn(after) end
    rate, state.rate = after, after
  end
  state.grown_at = now
  save()
  return { '1', '0', string.format('%.6g', rate) }
end

local class, queue, me, waited, must = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), ARGV[10] == '1'
local waits = KEYS[5 + queue]

if what == 'leave' then
  redis.call('ZREM', waits, me)
  if waited > 0 then count({ [4 + class] = 1, [8] = waited }) end
  save()
  return { '0', '0', string.format('%.6g', rate) }
end

local is_waiting = waited > 0 and redis.call('ZSCORE', waits, me)
local before = 0 -- who came first, of this class and those above
if not is_waiting then
  for other = 1, queue do
    redis.call('ZREMRANGEBYSCORE', KEYS[5 + other], '-inf', now)
    before = before + redis.call('ZCARD', KEYS[5 + other])
  end
end
local floor = burst * LEFT[queue]
if queue == 1 then floor = -debt end
local served = 'served' .. queue
if queue > 1 and waited >= NEVER_LONGER * 1000 and math.abs(now - (state[served] or 0)) >= NEVER_LONGER then
  must = true
end
local missing = floor + 1 + before - tokens
if must or missing <= 1e-4 then
  tokens = math.max(-debt, tokens - 1)
  redis.call('ZREM', waits, me)
  if queue > 1 then state[served] = now end
  if waited > 0 or tokens < burst / 2 then
    state.busy_at = now
    state.grown_at = state.grown_at or now
  end
  count({ [class] = 1, [4 + class] = waited > 0 and 1 or 0, [8] = waited })
  save()
  local may_grow = rate < ceiling and state.busy_at == now
  return { '1', may_grow and '1' or '0', string.format('%.6g', rate) }
end
local pause = math.min(0.5, math.max(0.01, missing / rate))
redis.call('ZADD', waits, now + pause + LEASE, me)
redis.call('EXPIRE', waits, 60)
save()
return { '0', string.format('%.6f', pause), string.format('%.6g', rate) }
