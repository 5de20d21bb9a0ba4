-- Removes a claim. KEYS: the id. ARGV: "node epoch ", with which the value of the claim begins.
local there = redis.call('GET', KEYS[1])
if there and string.sub(there, 1, #ARGV[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
