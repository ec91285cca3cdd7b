-- next: the time for the id of a claim: later than that of every claim before, also where the clock was set back.
--
-- KEYS[1]  of which claim the time was last: sorted set with the one member "last", scored by Unix ms
--
-- Returns Unix ms, and writes nothing: who claims first with it notes it, and others ask again.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('ZSCORE', KEYS[1], 'last')
return last and math.max(now, tonumber(last) + 1) or now
