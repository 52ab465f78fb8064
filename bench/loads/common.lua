-- Shared by the wrk scripts.

local common = {}

-- The credentials of all requests, if the service requires any. An environment variable, because `ps` shows arguments.
wrk.headers["Authorization"] = os.getenv("AUTHORIZATION")

-- GET requests for the paths in a file. They are formatted before the measurement, because formatting one takes longer
-- than sending it.
function common.reads(file)
   local requests = {}
   for path in io.lines(file) do
      requests[#requests + 1] = wrk.format("GET", path)
   end
   return requests
end

-- A function that returns requests which create users. No email occurs twice: each run has a separate tag, and each
-- request a separate number.
function common.writes(tag)
   local placeholder = "NNNNNNNNN"
   local body = string.format('{"name":"Bench","email":"bench-%s-%s@example.com"}', tag, placeholder)
   local headers = { ["Content-Type"] = "application/json", ["Authorization"] = wrk.headers["Authorization"] }
   local request = wrk.format("POST", "/users", headers, body)
   local from, to = request:find(placeholder, 1, true)
   local before, after = request:sub(1, from - 1), request:sub(to + 1)
   local number = 0
   return function()
      number = number + 1
      return before .. string.format("%09d", number) .. after
   end
end

-- Prints the line that the runner parses. Times are in microseconds.
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
