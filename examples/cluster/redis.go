package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

var errRedisURL = errors.New("it must be a URL such as redis://user:password@host:6379/0")

// redisOptions reads where Redis is:
//
//	redis://user:password@host:6379/1                 one server; rediss:// with TLS
//	redis://host:6379,host2:6379                      a Redis Cluster
//	redis+sentinel://host:26379,host2/mastername/1    Sentinels
//
// The scheme may stand before each host. User and password are those of the servers, not of Sentinels.
func redisOptions(s string) (o redis.UniversalOptions, err error) {
	scheme, rest, found := strings.Cut(s, "://")
	base, sentinel := strings.CutSuffix(scheme, "+sentinel")
	if !found || base != "redis" && base != "rediss" {
		return o, errRedisURL
	}
	authority, path, _ := strings.Cut(strings.ReplaceAll(rest, ","+scheme+"://", ","), "/")
	user, list, hasUser := strings.Cut(authority, "@")
	if !hasUser {
		user, list = "", authority
	}
	hosts := strings.Split(list, ",")
	port := "6379"
	if sentinel {
		port = "26379"
		o.MasterName, path, _ = strings.Cut(path, "/")
		if o.MasterName == "" {
			return o, errors.New("after the Sentinels it must have the name of the master, as in redis+sentinel://host:26379/mastername")
		}
	}
	for _, host := range hosts {
		if host == "" || strings.ContainsAny(host, "@/?#") {
			return o, errRedisURL
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		o.Addrs = append(o.Addrs, host)
	}
	one := base + "://"
	if hasUser {
		one += user + "@"
	}
	parsed, err := redis.ParseURL(one + o.Addrs[0] + "/" + path)
	if err != nil {
		return o, errRedisURL // the text of err may have the password
	}
	o.Username, o.Password, o.DB, o.TLSConfig = parsed.Username, parsed.Password, parsed.DB, parsed.TLSConfig
	if o.TLSConfig != nil {
		o.TLSConfig.ServerName = "" // that of each host
	}
	if len(hosts) > 1 && !sentinel && o.DB != 0 {
		return o, fmt.Errorf("a Redis Cluster has no database %d", o.DB)
	}
	return o, nil
}
