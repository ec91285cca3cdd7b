-- claim: move up to N messages from the old end of a source list into a new claim, all at once or not at all.
--
-- KEYS[1]  the source list
-- KEYS[2]  the claim's list, which must not exist
-- KEYS[3]  the registry of claims of this source: sorted set of "<batch_id>@<worker>" by lease deadline, server ms
-- KEYS[4]  what was claimed last: sorted set of "last", the time of the last claim, scored by Unix ms; "next", scored by
--          the running number of the oldest waiting message; and "<batch_id>", by that of the claim's first message
-- KEYS[5]  optional: the list that every message is passed on to
-- ARGV[1]  "<batch_id>@<worker>"
-- ARGV[2]  the most messages
-- ARGV[3]  the most bytes (one message may exceed it)
-- ARGV[4]  the lease, ms
-- ARGV[5]  the old end of the source list: "left" or "right"
-- ARGV[6]  the time in the batch_id, Unix ms, as next.lua gave it
-- ARGV[7]  how many bytes the largest message of this worker's last claim had; "" if it made none
-- ARGV[8]  the batch_id
--
-- Returns first how many are in the claim's list now, the oldest first; 0 if none were waiting, and then there is no
-- claim. Then the running number of the first, those of the others follow it; "" if it has none. Behind it, what the
-- server refused and was done without: "sort", "last".
--
-- By the running number a message is known that falls back into this list, because a replica that didn't know the claim
-- took over, or an earlier state was restored: the numbers fall back with it.
--
-- Who wants the messages reads that list: as strings of this script they would cost three times as much.

if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  -- A command that was sent twice. The name is taken, and what it holds may be half-way through Postgres.
  return redis.error_reply('CLAIMED this claim exists already')
end

-- As many short messages as Redis answers with from a buffer that it has anyway. Of the largest, this many must fit
-- into memory.
local CHUNK = 32
local SAMPLES = 16 -- messages whose lengths are looked at where there is little doubt
local NOBODY = '\0' -- of no sorted set a member
local source, claim, registry, last, forward = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local member, from_left = ARGV[1], ARGV[5] == 'left'
local without = {}

local waiting = redis.call('LLEN', source)
if waiting == 0 then
  return {0}
end
local noted = redis.pcall('ZSCORE', last, 'last')
local refused = type(noted) == 'table'
if refused and string.find(noted.err, 'WRONGTYPE', 1, true) then
  return noted
end
if not refused and noted and tonumber(noted) >= tonumber(ARGV[6]) then
  return redis.error_reply('OVERTAKEN another worker has claimed meanwhile: ask for the next time')
end
if forward then
  redis.call('LLEN', forward) -- fails now, before anything is written, if it's no list
end

-- The messages at these places from the old end, which is 0, as they lie in the list.
local function read(first, beyond)
  if from_left then
    return redis.call('LRANGE', source, first, beyond - 1)
  end
  return redis.call('LRANGE', source, -beyond, -first - 1)
end

local function reversed(messages)
  local turned = {}
  for i = #messages, 1, -1 do
    turned[#turned + 1] = messages[i]
  end
  return turned
end

-- Whether it's safe to say that so many of the oldest have no more than so many bytes. To look at each costs Redis more
-- than all the rest of a claim does; the list itself has no length in bytes that every server tells.
local function are_small(count, most_bytes)
  local largest = tonumber(ARGV[7]) or most_bytes + 1
  local stride = math.floor(count / SAMPLES)
  if stride < 2 or largest * count > most_bytes then
    return false
  end
  for i = 0, SAMPLES - 1 do
    local place = i * stride + (tonumber(ARGV[6]) + i * 7) % stride
    largest = math.max(largest, #read(place, place + 1)[1])
  end
  return largest * count <= most_bytes
end

-- How many of the oldest are at most so many and at most so many bytes, but at least one.
local function within_limits(most, most_bytes)
  if are_small(most, most_bytes) then
    return most
  end
  local bytes = 0
  for first = 0, most - 1, CHUNK do
    local messages = read(first, math.min(first + CHUNK, most))
    if not from_left then
      messages = reversed(messages)
    end
    for i = 1, #messages do
      bytes = bytes + #messages[i]
      if bytes > most_bytes then
        return math.max(first + i - 1, 1)
      end
    end
  end
  return most
end

local count = within_limits(math.min(tonumber(ARGV[2]), waiting), tonumber(ARGV[3]))
local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4])

-- A list that has no number yet, or has lost it, begins with the time in microseconds: no list takes a million messages a
-- second for long, so no number comes twice. Numbers are exact up to 2^53, which is the year 2255.
local number = not refused and tonumber(redis.call('ZSCORE', last, 'next') or nil)
if not number or number < 0 or number > 2 ^ 53 - count or number ~= math.floor(number) then
  number = time[1] * 1000000 + time[2]
end

-- A script isn't undone where it fails. So whatever a server may refuse is tried first, on the key it's meant for, and in
-- a way that changes nothing; also what will be needed to read, to renew and to acknowledge the claim.
-- LTRIM comes first: a script that has written may go on when memory has run out, as it must: taking messages away is
-- what a full Redis needs.
redis.call('LTRIM', source, 0, -1)
redis.call('LRANGE', claim, 0, 0)
redis.call('ZADD', registry, 'XX', deadline, member)
redis.call('ZREM', registry, member)
redis.call('UNLINK', claim)
if not refused then
  refused = type(redis.pcall('ZADD', last, 'XX', 0, NOBODY)) == 'table'
end
if refused then
  without[#without + 1] = 'last'
end

-- What can't be tried without doing it is the first write, and the second can be taken back.
-- SORT is Redis' own way to copy a part of a list, and thrice as fast as the other.
local order = from_left and 'ASC' or 'DESC'
local sorted = redis.pcall('SORT', source, 'BY', 'nosort', order, 'LIMIT', 0, count, 'STORE', claim)
if type(sorted) == 'table' then
  without[#without + 1] = 'sort'
  for first = math.floor((count - 1) / CHUNK) * CHUNK, 0, -CHUNK do
    local messages = read(first, math.min(first + CHUNK, count))
    redis.call('LPUSH', claim, unpack(from_left and reversed(messages) or messages))
  end
end

local function give_up(answer)
  redis.call('UNLINK', claim)
  return answer
end

-- What goes from the source is what was copied, or nothing goes: a server that isn't quite Redis may sort otherwise.
if
  redis.call('LLEN', claim) ~= count
  or redis.call('LRANGE', claim, 0, 0)[1] ~= read(0, 1)[1]
  or redis.call('LRANGE', claim, -1, -1)[1] ~= read(count - 1, count)[1]
then
  return give_up(
    redis.error_reply('ERR this server copies another part of a list than it was asked for; nothing was taken')
  )
end

if forward then
  for first = 0, count - 1, CHUNK do
    local messages = redis.call('LRANGE', claim, first, first + CHUNK - 1)
    -- The reader of this list pops from the same end as it did from the source.
    local pushed = redis.pcall(from_left and 'RPUSH' or 'LPUSH', forward, unpack(messages))
    if type(pushed) == 'table' then -- the first, or none
      return give_up(pushed)
    end
  end
end
redis.call('ZADD', registry, deadline, member)
if not refused then
  local first, following = string.format('%.0f', number), string.format('%.0f', number + count)
  redis.call('ZADD', last, ARGV[6], 'last', following, 'next', first, ARGV[8])
end
if from_left then
  redis.call('LTRIM', source, count, -1)
else
  redis.call('LTRIM', source, 0, -(count + 1))
end
return {count, not refused and number or '', unpack(without)}
