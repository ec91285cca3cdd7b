-- sweep: forget the running numbers of claims that are gone: a loader of 0.1 acknowledged them, or somebody deleted them.
--
-- KEYS[1]  what was claimed last; see claim.lua
-- KEYS[2…] of each claim two keys: its list, and the list that keeps its messages once it was acknowledged
-- ARGV[1…] their batch_ids, in the same order
--
-- Returns how many were forgotten. A claim may have come back meanwhile, so it's looked at again.

local gone = 0
for i = 1, #ARGV do
  if redis.call('EXISTS', KEYS[2 * i], KEYS[2 * i + 1]) == 0 then
    gone = gone + redis.call('ZREM', KEYS[1], ARGV[i])
  end
end
return gone
