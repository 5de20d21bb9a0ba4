package peer

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// TypeICEServers is the type of the message with the result of [Options.ICEServers]. Its
// payload is an object with "iceServers", in the form of the configuration of an
// RTCPeerConnection. PeerJS ignores it; a page takes it with
//
//	peer.socket.on("message", m => {
//		if (m.type === "ICE-SERVERS") peer.options.config = {...peer.options.config, ...m.payload}
//	})
const TypeICEServers MessageType = "ICE-SERVERS"

// An ICEServer is a STUN or TURN server. It may have several URLs. It is marshalled in the form
// of an RTCIceServer of WebRTC.
type ICEServer struct {
	URLs       []string `json:"urls"`                 // at least one: "stun:host:3478", "turn:host:3478?transport=udp", "turns:host:5349"
	Username   string   `json:"username,omitempty"`   // "" for STUN
	Credential string   `json:"credential,omitempty"` // "" for STUN
}

// maxHandle bounds the name of a user in a username of TURN; an id may be longer than the 512
// bytes that STUN allows (RFC 8489, section 14.3).
const maxHandle = 64

// TURNCredentials returns a username and a credential for a TURN server that shares the secret
// (coturn: use-auth-secret, static-auth-secret). They are valid for ttl from now. The username
// is the time at which the credentials end, a colon, and a name. The name is user if user has 1
// to 64 characters, all of them letters, digits, dashes or underscores. Otherwise the name is
// "~" and a hash of user. The credential is the HMAC-SHA1 of the username, in base64. The
// convention is that of "A REST API For Access To TURN Services"
// (draft-uberti-behave-turn-rest-00), which coturn, eturnal and pion follow.
func TURNCredentials(secret []byte, user string, ttl time.Duration) (username, credential string) {
	username = fmt.Sprintf("%d:%s", time.Now().Add(ttl).Unix(), handle(user))
	mac := hmac.New(sha1.New, secret)
	mac.Write([]byte(username))
	return username, base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// handle returns a name for user that every TURN server can take.
func handle(user string) string {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
	if user != "" && len(user) <= maxHandle && strings.Trim(user, allowed) == "" {
		return user
	}
	sum := sha256.Sum256([]byte(user))
	return "~" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// iceMessage is the message with servers.
func iceMessage(servers []ICEServer) []byte {
	payload, _ := json.Marshal(struct {
		ICEServers []ICEServer `json:"iceServers"`
	}{servers}) // strings always marshal
	b, _ := Message{Type: TypeICEServers, Payload: payload}.encode()
	return b
}
