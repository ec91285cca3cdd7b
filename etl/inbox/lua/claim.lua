-- claim: move up to N messages from the old end of a source list into a new claim, all at once or not at all.
--
-- KEYS[1]  the source list
-- KEYS[2]  the claim's list, which must not exist
-- KEYS[3]  the registry of claims of this source: sorted set of "<batch_id>@<worker>" by lease deadline, server ms
-- KEYS[4]  optional: the list that every message is passed on to
-- ARGV[1]  "<batch_id>@<worker>"
-- ARGV[2]  the most messages
-- ARGV[3]  the most bytes (one message may exceed it)
-- ARGV[4]  the lease, ms
-- ARGV[5]  the old end of the source list: "left" or "right"
--
-- Returns the messages, the oldest first; none if none were waiting, and then there is no claim either.

if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  -- A command that was sent twice. The name is taken, and what it holds may be half-way through Postgres.
  return redis.error_reply('CLAIMED this claim exists already')
end

-- Few enough that a chunk of the largest messages fits into memory, enough that the calls don't cost.
local CHUNK = 250
local source, claim = KEYS[1], KEYS[2]
local most, most_bytes, from_left = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[5] == 'left'
local messages, bytes, full = {}, 0, false

while not full and #messages < most do
  local done = #messages
  local n = math.min(CHUNK, most - done)
  local chunk
  if from_left then
    chunk = redis.call('LRANGE', source, done, done + n - 1)
  else
    chunk = redis.call('LRANGE', source, -(done + n), -(done + 1))
  end
  if #chunk == 0 then
    break
  end
  for i = 1, #chunk do
    local message = chunk[from_left and i or (#chunk - i + 1)]
    bytes = bytes + #message
    if bytes > most_bytes and #messages > 0 then
      full = true
      break
    end
    messages[#messages + 1] = message
  end
  if #chunk < n then
    break
  end
end

local count = #messages
if count == 0 then
  return messages
end

local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4])

if KEYS[4] then
  redis.call('LLEN', KEYS[4]) -- fails now, before anything is written, if it's no list
end
-- A script isn't undone where it fails. This changes nothing, but fails first if we may not trim; and a script that has
-- written may go on when memory has run out, as it must: taking messages away is what a full Redis needs.
redis.call('LTRIM', source, 0, -1)
redis.call('ZADD', KEYS[3], deadline, ARGV[1])
for first = 1, count, CHUNK do
  local last = math.min(first + CHUNK - 1, count)
  redis.call('RPUSH', claim, unpack(messages, first, last))
  if KEYS[4] then
    -- The reader of this list pops from the same end as it did from the source.
    redis.call(from_left and 'RPUSH' or 'LPUSH', KEYS[4], unpack(messages, first, last))
  end
end
if from_left then
  redis.call('LTRIM', source, count, -1)
else
  redis.call('LTRIM', source, 0, -(count + 1))
end
return messages
