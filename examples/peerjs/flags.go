package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// These functions read the values of the flags.

func setPort(to *int) func(string) error {
	return func(s string) error {
		port, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return errors.New("it must be a number from 0 to 65535")
		}
		*to = int(port)
		return nil
	}
}

// setText refuses what is empty: it would silently mean the default.
func setText(to *string) func(string) error {
	return func(s string) error {
		if *to = s; s == "" {
			return errors.New("it must not be empty")
		}
		return nil
	}
}

// setLimit refuses 0, which means the default to Options, and to npm's peerjs
// something between "at once" and "nobody".
func setLimit(to *int) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil || n == 0 || n < -1 {
			return fmt.Errorf("it must be a number from 1 to %d, or -1 for none", math.MaxInt32)
		}
		*to = int(n)
		return nil
	}
}

func setMilliseconds(to *time.Duration) func(string) error {
	return func(s string) error {
		var n int
		err := setLimit(&n)(s)
		*to = time.Duration(n) * time.Millisecond
		return err
	}
}

// addOrigin refuses what no browser sends as its origin: it would shut everybody out.
func addOrigin(to *[]string) func(string) error {
	return func(s string) error {
		u, err := url.Parse(s)
		exact := err == nil && u.Scheme != "" && u.Host != "" && strings.EqualFold(strings.TrimSuffix(s, "/"), u.Scheme+"://"+u.Host)
		if !exact && s != "*" && s != "null" {
			return errors.New("it must be an origin such as https://example.com")
		}
		*to = append(*to, s)
		return nil
	}
}

func setSwitch(set func(on bool)) func(string) error {
	return func(s string) error {
		on, err := strconv.ParseBool(s)
		if err != nil {
			return errors.New("it must be true or false")
		}
		set(on)
		return nil
	}
}

func privateNetworks() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("fc00::/7"),
	}
}
