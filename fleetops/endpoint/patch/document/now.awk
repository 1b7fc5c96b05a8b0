BEGIN { print iso(at) }
