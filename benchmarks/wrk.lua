-- Asks each request of a file once, then says in JSON how that went and ends wrk, which else runs for all its --duration.
-- Arguments: the token's file, and the file of requests as processes/http_load.py describes it. For one thread (-t1).

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds, microseconds; } moment; int gettimeofday(moment *, void *);")

local requests = {}
local asked = -1 -- wrk calls request() once before it starts, only to look at what it gets
local answered, refused = 0, 0
local began_at

local function now()
  local moment = ffi.new("moment")
  ffi.C.gettimeofday(moment, nil)
  return tonumber(moment.seconds) + tonumber(moment.microseconds) / 1e6
end

function init(arguments)
  local headers = { Authorization = "Bearer " .. io.open(arguments[1]):read("*l") }
  for line in io.lines(arguments[2]) do
    local method, path, body = line:match("^(%S+) (%S+) ?(.*)$")
    headers["Content-Type"] = body ~= "" and "application/json" or nil
    table.insert(requests, wrk.format(method, path, headers, body))
  end
end

function request()
  asked = asked + 1
  if asked == 1 then began_at = now() end
  return requests[math.max(asked, 1)] or "" -- none is left: nothing is sent, and the connection stays idle
end

function response(status)
  answered = answered + 1
  if status < 200 or status > 299 then refused = refused + 1 end
  if answered == #requests then
    print(string.format('{"answered": %d, "refused": %d, "seconds": %.6f}', answered, refused, now() - began_at))
    os.exit(0)
  end
end
