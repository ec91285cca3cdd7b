-- claim: move up to N messages from the old end of a source list into a new claim, all at once or not at all.
--
-- KEYS[1]  the source list
-- KEYS[2]  the claim's list, which must not exist
-- KEYS[3]  the registry of claims of this source: sorted set of "<batch_id>@<worker>" by lease deadline, server ms
-- KEYS[4]  of which claim the time was last: sorted set with the one member "last", scored by Unix ms
-- KEYS[5]  optional: the list that every message is passed on to
-- ARGV[1]  "<batch_id>@<worker>"
-- ARGV[2]  the most messages
-- ARGV[3]  the most bytes (one message may exceed it)
-- ARGV[4]  the lease, ms
-- ARGV[5]  the old end of the source list: "left" or "right"
-- ARGV[6]  the time in the batch_id, Unix ms, as next.lua gave it
--
-- Returns how many are in the claim's list now, the oldest first; 0 if none were waiting, and then there is no claim.
-- Who wants them reads that list: as strings of this script they would cost three times as much.

if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  -- A command that was sent twice. The name is taken, and what it holds may be half-way through Postgres.
  return redis.error_reply('CLAIMED this claim exists already')
end

-- Few enough that as many of the largest messages fit into memory, enough that the calls don't cost.
local CHUNK = 250
local source, claim = KEYS[1], KEYS[2]
local most, most_bytes, from_left = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[5] == 'left'

if redis.call('LLEN', source) == 0 then
  return 0
end
local noted = redis.call('ZSCORE', KEYS[4], 'last')
if noted and tonumber(noted) >= tonumber(ARGV[6]) then
  return redis.error_reply('OVERTAKEN another worker has claimed meanwhile: ask for the next time')
end
if KEYS[5] then
  redis.call('LLEN', KEYS[5]) -- fails now, before anything is written, if it's no list
end

-- The messages that are so many at the old end, from one list to the other: Redis' own way to copy a part of a list.
local function copy(count)
  return redis.call('SORT', source, 'BY', 'nosort', from_left and 'ASC' or 'DESC', 'LIMIT', 0, count, 'STORE', claim)
end

local function bytes() -- a little more than those of the messages
  return redis.call('MEMORY', 'USAGE', claim, 'SAMPLES', 0)
end

-- How many of the messages in the claim's list are the most bytes, but at least one.
local function within_limit(count)
  local sum = 0
  for first = 0, count - 1, CHUNK do
    for i, message in ipairs(redis.call('LRANGE', claim, first, first + CHUNK - 1)) do
      sum = sum + #message
      if sum > most_bytes then
        return math.max(first + i - 1, 1)
      end
    end
  end
  return count
end

local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4])

-- A script isn't undone where it fails. This changes nothing, but fails first if we may not trim; and a script that has
-- written may go on when memory has run out, as it must: taking messages away is what a full Redis needs.
redis.call('LTRIM', source, 0, -1)
redis.call('ZADD', KEYS[3], deadline, ARGV[1])
local count = copy(math.min(most, CHUNK))
if count == CHUNK and most > CHUNK then
  -- Of large messages not many more are copied than are kept.
  count = copy(math.min(most, math.max(CHUNK, math.ceil(most_bytes / bytes() * CHUNK))))
end
if bytes() > most_bytes then
  count = within_limit(count)
  redis.call('LTRIM', claim, 0, count - 1)
end

local function at(list, index)
  return redis.call('LRANGE', list, index, index)[1]
end

-- What goes from the source is what was copied, or nothing goes: a server that isn't quite Redis may sort otherwise.
local first, last = from_left and 0 or -1, from_left and count - 1 or -count
if redis.call('LLEN', claim) ~= count or at(claim, 0) ~= at(source, first) or at(claim, -1) ~= at(source, last) then
  redis.call('UNLINK', claim)
  redis.call('ZREM', KEYS[3], ARGV[1])
  return redis.error_reply('ERR this server copies another part of a list than it was asked for; nothing was taken')
end

redis.call('ZADD', KEYS[4], ARGV[6], 'last')
if KEYS[5] then
  for first = 0, count - 1, CHUNK do
    local messages = redis.call('LRANGE', claim, first, first + CHUNK - 1)
    -- The reader of this list pops from the same end as it did from the source.
    redis.call(from_left and 'RPUSH' or 'LPUSH', KEYS[5], unpack(messages))
  end
end
if from_left then
  redis.call('LTRIM', source, count, -1)
else
  redis.call('LTRIM', source, 0, -(count + 1))
end
return count
