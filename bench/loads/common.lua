-- What the loads have in common.

local common = {}

-- Requests for the paths of a file. They are made before the measurement begins: making one takes longer than
-- sending it.
function common.reads(file)
   local requests = {}
   for path in io.lines(file) do
      requests[#requests + 1] = wrk.format("GET", path)
   end
   return requests
end

-- A function that gives requests which create users. No email comes twice: the tag differs from run to run, and the
-- number within one.
function common.writes(tag)
   local place = "NNNNNNNNN"
   local body = string.format('{"name":"Bench","email":"bench-%s-%s@example.com"}', tag, place)
   local request = wrk.format("POST", "/users", { ["Content-Type"] = "application/json" }, body)
   local from, to = request:find(place, 1, true)
   local before, after = request:sub(1, from - 1), request:sub(to + 1)
   local number = 0
   return function()
      number = number + 1
      return before .. string.format("%09d", number) .. after
   end
end

-- One line that the runner reads. Times are in microseconds.
function common.done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      'result: {"requests": %d, "duration": %d, "p50": %d, "p99": %d, ' ..
      '"status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.status, errors.connect, errors.read, errors.write, errors.timeout
   ))
end

return common
