#!lua flags=no-writes
-- permitted: which commands this user may not run. Redis asks for the right before it finds that this script may not
-- write: so every command can be tried on the real keys, and none changes anything.
--
-- KEYS     the keys of the commands
-- ARGV[1]  the commands with their arguments: a JSON array of arrays
--
-- Returns the places, from 1, of those that are refused for want of a right. A channel's is another one, and found
-- elsewhere.

local refused = {}
for place, words in ipairs(cjson.decode(ARGV[1])) do
  local answer = redis.pcall(unpack(words))
  local err = type(answer) == 'table' and answer.err or ''
  if string.find(err, 'ACL failure', 1, true) and not string.find(err, 'channel', 1, true) then
    refused[#refused + 1] = place
  end
end
return refused
