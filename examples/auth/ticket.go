package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A ticket says who somebody is. Signed, it is a session or a token; on a connection, it
// is the [peer.Client.User].
//
// PeerJS sends a token with every handshake, of its own making unless the page gives one.
// An unmodified client has no better place for a credential. But the server also knows a
// peer by it: who comes with the token of the connection that has the id is the same
// peer and takes over without a question, as after a lost network, and a token that was
// overridden stays out while the newcomer lives. From that follows
//
//   - that a token has a nonce. With the same token two devices of one user would be one
//     peer to the server, and if both reconnect by themselves, take turns for ever.
//   - that a page keeps its token to reconnect, and asks for a new one only if the old one
//     is refused, or if its user wants the id here. A new token is a new device, which
//     may override: a page that knows it was overridden must not ask for it by itself.
//   - that a token lives for a short time: it is a part of an address, and proxies log
//     these. When its time is over it opens no connection; it does not end one.
type ticket struct {
	User, Room string
	Nonce      string `json:",omitempty"`
	Expires    time.Time
}

// id returns the one id that belongs to the user in the room. It names the room, so that
// it is settled who may call whom, whether or not somebody is connected as that id.
func (t ticket) id() string { return t.User + "-" + t.Room }

// The two uses of a signed ticket. The use is signed too: a session, which lives longer,
// must not pass for a token.
const (
	useSession = "session"
	useToken   = "token"
)

// A key signs tickets.
type key []byte

// newKey returns the key given, or else a random one, with which a restart logs everybody
// out.
func newKey(given string) (key, error) {
	const size = 32
	if given == "" {
		k := make(key, size)
		rand.Read(k) // never fails
		return k, nil
	}
	if len(given) < size {
		return nil, fmt.Errorf("AUTH_KEY must have at least %d bytes", size)
	}
	return key(given), nil
}

// sign returns a ticket as text that only the owner of the key can make. The client puts
// a token into its URL as it is, so there is nothing in it that has to be escaped.
func (k key) sign(use string, t ticket) string {
	b, _ := json.Marshal(t) // cannot fail with these fields
	body := base64.RawURLEncoding.EncodeToString(b)
	return body + "." + k.mac(use, body)
}

func (k key) mac(use, body string) string {
	h := hmac.New(sha256.New, k)
	h.Write([]byte(use + "." + body))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// verify returns the ticket of a signed text. Nothing of the text is decoded before its
// signature is known to be right. Its errors are written for the user.
func (k key) verify(use, signed string) (t ticket, err error) {
	body, mac, _ := strings.Cut(signed, ".")
	if !hmac.Equal([]byte(mac), []byte(k.mac(use, body))) {
		return ticket{}, errors.New("is not valid")
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil { // signed by another version of this program
		return ticket{}, errors.New("is not valid")
	}
	if !time.Now().Before(t.Expires) {
		return ticket{}, errors.New("has expired")
	}
	return t, nil
}
