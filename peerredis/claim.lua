-- Makes a node the holder of an id. KEYS: the id. ARGV: node, token, epoch, over, own, TTL in ms,
-- and when a new claim is of no use any more, in us; 0: never.
-- The value is "node epoch token" and, until the first renewal, the place before: " node epoch", or "  0".
-- No field contains a space: the id is only in the key. Epochs stay below 2^53, so numbers are exact.
-- Returns whether it is granted, and the place before or in the way.
local node, token, epoch = ARGV[1], ARGV[2], tonumber(ARGV[3])
local over, own = tonumber(ARGV[4]), tonumber(ARGV[5])
local value = node .. ' ' .. ARGV[3] .. ' ' .. token
local before, at = '', '0'
local function late()
  local now = redis.call('TIME')
  return ARGV[7] ~= '0' and now[1] * 1000000 + now[2] >= tonumber(ARGV[7])
end
local there = redis.pcall('GET', KEYS[1]) -- a table: it is of another type
local n, e, t, pn, pe = string.match(type(there) == 'string' and there or '', '^(%S+) (%d+) (%S+) ?(%S*) ?(%d*)$')
if n then -- what is no claim is replaced
  local current = tonumber(e)
  if own > 0 then
    if n ~= node and current > own then return {0, n, e} end
    if n == node and current > epoch then -- a repetition that has come late: a greater epoch stays
      redis.call('PEXPIRE', KEYS[1], ARGV[6])
      return {1, n, e}
    end
  elseif n == node and current == epoch and t == token then
    if pe == '' then pn, pe = n, e end
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
    return {1, pn, pe}
  elseif late() then
    return {0, '', '0'}
  elseif current >= epoch or not (n == node or t == token or current == over) then
    return {0, n, e}
  end
  before, at = n, e
  if n == node and pe ~= '' then before, at = pn, pe end
elseif own == 0 and late() then
  return {0, '', '0'}
end
if own == 0 then value = value .. ' ' .. before .. ' ' .. at end
redis.call('SET', KEYS[1], value, 'PX', ARGV[6])
return {1, before, at}
