-- Edits a room and returns its members. KEYS: the room. ARGV: node, gone, max, TTL in ms, when it must not be done
-- any more in us (0: never), numbers of renewals and of joins, for each of them id and data, then the ids that
-- leave. Too late: nil.
-- The hash is id -> "node data". A node's name has no space, so the first space ends it.
local room, node, gone, max = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local joins = 8 + 2 * tonumber(ARGV[6]) -- index of the first one
local leaves = joins + 2 * tonumber(ARGV[7])
local now = redis.call('TIME')
if ARGV[5] ~= '0' and now[1] * 1000000 + now[2] >= tonumber(ARGV[5]) then return false end
local function through(value, name) return string.sub(value, 1, #name + 1) == name .. ' ' end

if gone ~= '' then
  local all = redis.call('HGETALL', room)
  for i = 1, #all, 2 do
    if through(all[i + 1], gone) then redis.call('HDEL', room, all[i]) end
  end
end
for i = leaves, #ARGV do
  local value = redis.call('HGET', room, ARGV[i])
  if value and through(value, node) then redis.call('HDEL', room, ARGV[i]) end
end
for i = 8, joins - 1, 2 do
  local value = redis.call('HGET', room, ARGV[i])
  if not value or through(value, node) then redis.call('HSET', room, ARGV[i], node .. ' ' .. ARGV[i + 1]) end
end
for i = joins, leaves - 1, 2 do
  if max < 0 or redis.call('HEXISTS', room, ARGV[i]) == 1 or redis.call('HLEN', room) < max then
    redis.call('HSET', room, ARGV[i], node .. ' ' .. ARGV[i + 1])
  end
end
if leaves > 8 then redis.call('PEXPIRE', room, ARGV[4]) end
return redis.call('HGETALL', room)
