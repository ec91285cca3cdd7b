-- ack: a claim is committed in Postgres: keep its messages for a while, or delete them; all of it or nothing.
--
-- KEYS[1]  the claim's list
-- KEYS[2]  the registry of claims of this source
-- KEYS[3]  the list that keeps the messages; see recall.lua. Without it and the following nothing is kept or noted
-- KEYS[4]  the kept claims of this source: sorted set of "<batch_id>@<bytes>" by when they were acknowledged, server ms
-- KEYS[5]  what was acknowledged: sorted set of "claims:<day>", "messages:<day>" and "kept bytes", scored by how many
-- KEYS[6]  what was claimed last; see claim.lua. A kept claim's number stays in it; without it sweep.lua finds what is left
-- ARGV[1]  "<batch_id>@<worker>"
-- ARGV[2]  the batch_id
-- ARGV[3]  the UTC day of the claim
-- ARGV[4]  how many messages it has
-- ARGV[5]  how many bytes they take in Redis, about
-- ARGV[6]  for how long they are kept, ms; 0: not at all
--
-- Returns 0 if the claim isn't this worker's any more: whoever adopted it finds it in the ledger and acknowledges.
-- Else 1 if the messages are kept; 2 if they aren't and weren't to be; 3 if the server refused.

local NOBODY = '\0' -- of no sorted set a member
local claim, registry, list, kept, acked, last = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local lasts = list and tonumber(ARGV[6]) or 0

local function is_refused(answer)
  return type(answer) == 'table' and answer.err ~= nil
end

if not redis.call('ZSCORE', registry, ARGV[1]) then
  return 0
end
local time = redis.pcall('TIME')
local now = not is_refused(time) and time[1] * 1000 + math.floor(time[2] / 1000)

-- Tried without effect, and before anything is written: a full Redis refuses ZADD, and then the messages go, which is
-- what it needs. What comes back later is only worth keeping if recall.lua and drop.lua may do their part.
local function may_keep()
  for _, try in ipairs({
    {'ZADD', kept, 'XX', 0, NOBODY},
    {'ZADD', acked, 'XX', 0, NOBODY},
    {'ZSCORE', acked, NOBODY},
    {'ZRANGEBYSCORE', kept, 1, 0},
    {'PEXPIRE', list, ARGV[6]},
    {'PERSIST', list},
    {'UNLINK', list},
    {'ZREM', kept, NOBODY},
  }) do
    if is_refused(redis.pcall(unpack(try))) then
      return false
    end
  end
  return true
end

local is_kept = lasts > 0 and now and redis.call('EXISTS', claim) == 1 and may_keep()
redis.call('ZREM', registry, NOBODY) -- no member of ours: fails before anything is taken away, if we may not
if is_kept then
  is_kept = not is_refused(redis.pcall('RENAME', claim, list)) -- the first write, or none
end
local bytes = 0
if is_kept then
  bytes = ARGV[5]
  redis.call('PEXPIRE', list, lasts)
else
  redis.call('UNLINK', claim)
  if last then
    redis.pcall('ZREM', last, ARGV[2])
  end
end
redis.call('ZREM', registry, ARGV[1])

-- What can't be recalled is to be named: so this is noted of every claim, if it may be.
local function add(member, number)
  local before = redis.pcall('ZSCORE', acked, member)
  if not is_refused(before) then
    redis.pcall('ZADD', acked, (tonumber(before or 0) or 0) + number, member)
  end
end
if list then
  if now then
    redis.pcall('ZADD', kept, now, ARGV[2] .. '@' .. bytes)
  end
  add('claims:' .. ARGV[3], 1)
  add('messages:' .. ARGV[3], ARGV[4])
  add('kept bytes', bytes)
end
return is_kept and 1 or tonumber(ARGV[6]) > 0 and 3 or 2
