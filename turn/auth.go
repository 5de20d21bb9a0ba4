package turn

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/gopeerjs/peer"
	"github.com/pion/stun/v4"
	pion "github.com/pion/turn/v5"
)

// realm is what clients sign their requests for. coturn with the same secret has a realm of its own, as each
// server tells its clients.
const realm = "peer"

// maxUsername is the longest username of STUN in bytes (RFC 8489, section 14.3).
const maxUsername = 508

// parseUsername returns the parts of a username as [peer.TURNCredentials] makes it: the time at which the
// credentials expire, in Unix seconds, a colon, and a name.
func parseUsername(username string) (expiry int64, name string, ok bool) {
	digits, name, found := strings.Cut(username, ":")
	expiry, err := strconv.ParseInt(digits, 10, 64)
	if !found || err != nil || expiry <= 0 || name == "" || len(username) > maxUsername {
		return 0, "", false
	}
	return expiry, name, true
}

// sign returns the credential of a username.
func sign(secret []byte, username string) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// nameOf returns the name of an id in usernames.
func nameOf(id string) string {
	username, _ := peer.TURNCredentials(nil, id, 0)
	_, name, _ := strings.Cut(username, ":")
	return name
}

// credentials returns the username and the credential for a client. c is nil if nobody tells when it ends.
func (s *Server) credentials(id string, c *peer.Client) (username, credential string) {
	username, credential = peer.TURNCredentials(s.opts.Secret, id, s.opts.TTL)
	expiry, name, _ := parseUsername(username)
	if later := s.users.issue(name, c, expiry); later != expiry {
		username = fmt.Sprintf("%d:%s", later, name)
		credential = sign(s.opts.Secret, username)
	}
	return username, credential
}

// authenticate returns the key that the request of a user must be signed with. pion asks for each request but
// those for a binding. Only whoever wants a new relay needs credentials that have not expired: with others, a
// relay that exists is refreshed. pion lets a user change only relays that were made with the same username.
func (s *Server) authenticate(ra *pion.RequestAttributes) (userID string, key []byte, ok bool) {
	expiry, name, ok := parseUsername(ra.Username)
	if !ok || ra.Realm != realm {
		s.unauthorized(ra.SrcAddr, refusedCredentials)
		return "", nil, false
	}
	if ra.Method == stun.MethodAllocate {
		if why := s.users.check(name, expiry, time.Now()); why != none {
			s.unauthorized(ra.SrcAddr, why)
			return "", nil, false
		}
	}
	return ra.Username, pion.GenerateAuthKey(ra.Username, realm, sign(s.opts.Secret, ra.Username)), true
}

// unauthorized counts a request that was not accepted against its address.
func (s *Server) unauthorized(client net.Addr, why refusal) {
	s.refusals.count(why)
	wrong := s.wrongUDP
	if _, tcp := client.(*net.TCPAddr); tcp {
		wrong = s.wrongTCP
	}
	if ap, ok := addrPortOf(client); ok {
		wrong.take(groupOf(ap.Addr()))
	}
}

// quota is asked when an authenticated user wants a relay. users.add decides; but only here the client can be
// told that it is a matter of quota (486).
func (s *Server) quota(username, _ string, _ net.Addr) bool {
	_, name, _ := parseUsername(username)
	why := s.users.hasRoom(name)
	if why != none {
		s.refusals.count(why)
	}
	return why == none
}

// permit is asked before a client gets a permission for an address of a peer. The ports of the server's own
// address are decided for each packet, as pion does not tell them here.
func (s *Server) permit(_ net.Addr, ip net.IP) bool {
	ap, ok := addrPortOf(&net.UDPAddr{IP: ip})
	if ok && s.peers.allowsAddr(ap.Addr()) {
		return true
	}
	s.refusals.count(refusedPeer)
	return false
}

// events returns what pion has to tell.
func (s *Server) events() pion.EventHandler {
	return pion.EventHandler{
		OnAuth: func(client, _ net.Addr, _, _, _, _ string, verdict bool) {
			if !verdict {
				s.unauthorized(client, refusedCredentials)
			}
		},
		OnAllocationCreated: func(client, server net.Addr, _, _, _ string, addr net.Addr, _ int) {
			if _, tcp := client.(*net.TCPAddr); !tcp {
				f, _ := flowOf(client, server)
				s.flows.Store(f, nil)
			} else if c := s.conns.get(client); c != nil {
				c.allocated(1)
			}
		},
		OnAllocationDeleted: func(client, server net.Addr, _, _, _ string) {
			if _, tcp := client.(*net.TCPAddr); !tcp {
				f, _ := flowOf(client, server)
				s.flows.Delete(f)
			} else if c := s.conns.get(client); c != nil {
				c.allocated(-1)
			}
			s.running.Done()
		},
		// pion has no bounds for what follows. Only hostile clients reach ours.
		OnPermissionCreated: func(_, _ net.Addr, _, _, _ string, addr net.Addr, peer net.IP) {
			if r := s.ports.get(addr); r != nil && r.permitted.add(peer) > maxPermissions {
				s.overflow(r)
			}
		},
		OnPermissionDeleted: func(_, _ net.Addr, _, _, _ string, addr net.Addr, peer net.IP) {
			if r := s.ports.get(addr); r != nil {
				r.permitted.remove(peer)
			}
		},
		OnChannelCreated: func(_, _ net.Addr, _, _, _ string, addr, _ net.Addr, _ uint16) {
			if r := s.ports.get(addr); r != nil && r.channels.Add(1) > maxChannels {
				s.overflow(r)
			}
		},
		OnChannelDeleted: func(_, _ net.Addr, _, _, _ string, addr, _ net.Addr, _ uint16) {
			if r := s.ports.get(addr); r != nil {
				r.channels.Add(-1)
			}
		},
	}
}

// overflow ends a relay with too many peers.
func (s *Server) overflow(r *relay) {
	s.refusals.count(refusedTables)
	r.end()
}
