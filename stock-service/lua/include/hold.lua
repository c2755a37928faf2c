-- include/hold.lua — one value of the hash `holds`: quantity:units:version:reserved_ms:user.

-- Quantity, units (`held`, `sold`, `returned`), version, reserved_ms, user; nil when it is not a hold.
local function parse_hold(text)
  local quantity, units, version, reserved_ms, user =
    string.match(text, '^(%d+):(%l+):(%d+):(%d+):([%w_-]+)$')
  return tonumber(quantity), units, tonumber(version), tonumber(reserved_ms), user
end

local function format_hold(quantity, units, version, reserved_ms, user)
  return string.format('%d:%s:%d:%d:%s', quantity, units, version, reserved_ms, user)
end
