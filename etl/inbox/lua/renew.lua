-- renew: move a claim's lease deadline, if the claim is still this worker's.
--
-- KEYS[1]  the registry of claims of this source
-- ARGV[1]  "<batch_id>@<worker>"
-- ARGV[2]  the lease, ms; 0 gives the claim back: anybody may adopt it at once
--
-- Returns 1, or 0 if the claim was adopted by another or is gone.

if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
local time = redis.call('TIME')
-- Removes nothing. But a script that has written may go on when memory has run out, and ZADD alone may not. The entry
-- itself is never away: where ZADD is refused, a claim without an entry would be an orphan.
redis.call('ZREM', KEYS[1], '\0')
redis.call('ZADD', KEYS[1], 'XX', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2]), ARGV[1])
return 1
