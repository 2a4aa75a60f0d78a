//! The steps that Redis does as one (Lua; effects are replicated, not the scripts).
//!
//! Used by the faces of the Redis store. A new step is a script here, with its keys and arguments described.

use std::sync::LazyLock;

use redis::Script;

/// A record is a hash of `v`alue and `n`umber of its version, with Redis's own expiry. Per table there are two sorted
/// sets: all names (for `list`), and names by the time when they expire (to clean the first).
const RECORDS: &str = r"
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local function forget(index, due, name)
  redis.call('ZREM', index, name)
  redis.call('ZREM', due, name)
end
local function remember(record, index, due, name, ttl)
  redis.call('ZADD', index, 0, name)
  if ttl then
    redis.call('PEXPIRE', record, ttl)
    redis.call('ZADD', due, string.format('%.0f', now() + ttl + 1000), name)
  else
    redis.call('PERSIST', record)
    redis.call('ZREM', due, name)
  end
end
local function clean(base, index, due)
  local names = redis.call('ZRANGEBYSCORE', due, '-inf', string.format('%.0f', now()), 'LIMIT', 0, 16)
  for _, name in ipairs(names) do
    redis.call('ZREM', due, name)
    if redis.call('EXISTS', base .. name) == 0 then redis.call('ZREM', index, name) end
  end
end
local function holds(record, expect)
  local version = redis.call('HGET', record, 'n')
  if expect == 'absent' then return not version end
  return expect == 'any' or version == expect
end
local base, index, due = ARGV[1], KEYS[1], KEYS[2]
";

fn records(body: &str) -> Script {
    Script::new(&format!("{RECORDS}{body}"))
}

/// Keys of all scripts for records: index, due. First argument: what a record's key begins with.
///
/// Arguments: base, name, `any`, `absent` or a version, value, milliseconds to live or nothing. The version or nil.
pub(super) static PUT: LazyLock<Script> = LazyLock::new(|| {
    records(
        r"
local record, ttl = base .. ARGV[2], tonumber(ARGV[5])
if not holds(record, ARGV[3]) then return false end
local version = redis.call('HINCRBY', record, 'n', 1)
redis.call('HSET', record, 'v', ARGV[4])
if ttl and ttl <= 0 then
  redis.call('DEL', record)
  forget(index, due, ARGV[2])
else
  remember(record, index, due, ARGV[2], ttl)
end
clean(base, index, due)
return version
",
    )
});

/// Arguments: base, name, expectation. 1 when a record was deleted.
pub(super) static DELETE: LazyLock<Script> = LazyLock::new(|| {
    records(
        r"
local record = base .. ARGV[2]
if not holds(record, ARGV[3]) then return 0 end
local deleted = redis.call('DEL', record)
forget(index, due, ARGV[2])
return deleted
",
    )
});

/// Arguments: base, name. Value and version, or nil.
pub(super) static TAKE: LazyLock<Script> = LazyLock::new(|| {
    records(
        r"
local record = base .. ARGV[2]
local found = redis.call('HMGET', record, 'v', 'n')
if not found[2] then return false end
redis.call('DEL', record)
forget(index, due, ARGV[2])
return found
",
    )
});

/// Arguments: base, lowest, highest (as ZRANGEBYLEX takes them), limit. Triples of name, value and version.
pub(super) static LIST: LazyLock<Script> = LazyLock::new(|| {
    records(
        r"
local lowest, limit, found = ARGV[2], tonumber(ARGV[4]), {}
while true do
  local names = redis.call('ZRANGEBYLEX', index, lowest, ARGV[3], 'LIMIT', 0, limit)
  if #names == 0 then return found end
  for _, name in ipairs(names) do
    local record = redis.call('HMGET', base .. name, 'v', 'n')
    if record[2] then
      found[#found + 1] = {name, record[1], record[2]}
      if #found == limit then return found end
    else
      forget(index, due, name)
    end
  end
  lowest = '(' .. names[#names]
end
",
    )
});

/// Arguments: base, name, how much, milliseconds of the window. The new count.
pub(super) static INCREMENT: LazyLock<Script> = LazyLock::new(|| {
    records(
        r"
local record = base .. ARGV[2]
local count = redis.call('HINCRBY', record, 'v', ARGV[3])
if redis.call('HINCRBY', record, 'n', 1) == 1 then
  remember(record, index, due, ARGV[2], tonumber(ARGV[4]))
end
clean(base, index, due)
return count
",
    )
});

/// The log is a stream with ids `<index>-0`. A log that is behind what the caller has seen lost entries: it gets a new
/// epoch here, before anything can be appended that would hide the loss.
const LOG: &str = r"
local log, key, seen_epoch, seen_index = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local function time()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end
local function last()
  if redis.call('EXISTS', log) == 0 then return 0 end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '^%d+')) end
  end
end
local epoch, index = redis.call('GET', key), last()
if not epoch or (epoch == seen_epoch and index < seen_index) then
  local fresh = math.max(math.floor(time() / 1000), tonumber(seen_epoch) + 1)
  epoch = string.format('%.0f', fresh)
  redis.call('SET', key, epoch)
end
";

/// The head of the log as a command: keys log, epoch; arguments: epoch and index that the caller has seen.
/// Answers epoch and index, as do all that begin with [`LOG`].
pub(super) static HEAD: LazyLock<String> =
    LazyLock::new(|| format!("{LOG}return {{epoch, string.format('%.0f', index)}}"));

/// Arguments: seen epoch, seen index, entry, its `until` in microseconds. The position of the entry.
pub(super) static APPEND: LazyLock<String> = LazyLock::new(|| {
    format!(
        r"{LOG}
local next = string.format('%.0f', index + 1)
redis.call('XADD', log, next .. '-0', 'entry', ARGV[3], 'until', ARGV[4])
for _, old in ipairs(redis.call('XRANGE', log, '-', '(' .. next .. '-0', 'COUNT', 16)) do
  local over = tonumber(old[2][4])
  if not over or over > time() then break end
  redis.call('XDEL', log, old[1])
end
return {{epoch, next}}
"
    )
});

/// Keys: log, epoch. Arguments: epoch and index of the last entry that the caller has, how many. The epoch, and pairs of
/// id and fields.
pub(super) static AFTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local epoch, from = redis.call('GET', KEYS[2]), '-'
if not epoch then return {'0', {}} end
if epoch == ARGV[1] then from = '(' .. ARGV[2] .. '-0' end
return {epoch, redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[3])}
",
    )
});

/// Keys: the node's stream, the set of nodes. Arguments: node, epoch in milliseconds, the last `seq` that must be there,
/// then entries as first `seq`, last `seq`, field and value. Ids are `<epoch ms>-<last seq>` and only grow: where entries
/// were taken from the end, a greater epoch goes on below their numbers. What is there already is skipped; an entry of
/// which a part is there, and everything after it, is for the caller to send again. The `seq` of the last event.
pub(super) const SHIP: &str = r"
local epoch, after, last = tonumber(ARGV[2]), tonumber(ARGV[3]), 0
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info, id = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then id = info[i + 1] end
  end
  local ms, seq = parts(id)
  local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  if top[1] and top[1][1] ~= id then
    ms, last = ms + 1, select(2, parts(top[1][1]))
  else
    last = seq
  end
  epoch = math.max(epoch, ms)
end
if last < after then return last end
for i = 4, #ARGV, 4 do
  local first, upto = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  if upto > last then
    if first <= last then return last end
    redis.call('XADD', KEYS[1], string.format('%.0f-%.0f', epoch, upto), ARGV[i + 2], ARGV[i + 3])
    redis.call('SADD', KEYS[2], ARGV[1])
    last = upto
  end
end
return last
";
