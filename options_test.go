package peer

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/gopeerjs/peer/cluster"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The constants that the comments of Options name as defaults.
var defaults = map[string]any{
	"DefaultKey":                   "peerjs",
	"DefaultExpireTimeout":         5 * time.Second,
	"DefaultAliveTimeout":          60 * time.Second,
	"DefaultHandshakeTimeout":      10 * time.Second,
	"DefaultWriteTimeout":          10 * time.Second,
	"DefaultProbeAfter":            10 * time.Second,
	"DefaultProbeTimeout":          2 * time.Second,
	"DefaultICERefresh":            time.Hour,
	"DefaultConcurrentLimit":       5000,
	"DefaultMaxMessageSize":        1 << 20,
	"DefaultMaxOutboxMessages":     1024,
	"DefaultMaxOutboxBytes":        2 << 20,
	"DefaultMaxHeldPerPair":        100,
	"DefaultMaxHeldPerDestination": 500,
	"DefaultMaxHeldBytes":          64 << 20,
	"DefaultMaxRooms":              10000,
	"DefaultMaxRoomMembers":        100,
	"DefaultMaxRoomsPerClient":     20,
	"DefaultMaxTokenBytes":         8192,
	"DefaultMaxPartialBytes":       32 << 20,
}

// The fields whose zero value means what their comment says, without a default
// in its place.
var zeroStays = []string{
	"Path", "ConcurrentLimitPerAddr", "TrustedProxies", "TrustUnixProxy", "AllowDiscovery", "AllowedOrigins", "Authenticate",
	"RejectBeforeUpgrade", "AllowOverride", "Authorize", "RelayTypes", "HoldTypes", "MessageRate", "AllowJoin",
	"ICEServers", "KeepRoomsOnOverride", "Cluster",
}

// optionDocs returns the comments of the fields of Options in the source.
func optionDocs(t *testing.T) map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "options.go", nil, parser.ParseComments)
	require.NoError(t, err)
	docs := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if ok && spec.Name.Name == "Options" {
			for _, f := range spec.Type.(*ast.StructType).Fields.List {
				docs[f.Names[0].Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
		}
		return true
	})
	return docs
}

func TestEveryZeroFieldGetsItsDocumentedDefault(t *testing.T) {
	docs := optionDocs(t)
	named := regexp.MustCompile(`Default \[(Default\w+)\]`)
	unused := make(map[string]bool)
	for name := range defaults {
		unused[name] = true
	}
	o := reflect.ValueOf(Options{}.withDefaults())
	for i := range o.NumField() {
		field, value := o.Type().Field(i).Name, o.Field(i)
		doc := docs[field]
		require.Contains(t, doc, "Default", "%s does not say what zero means", field)
		if m := named.FindStringSubmatch(doc); m != nil {
			assert.Equal(t, defaults[m[1]], value.Interface(), "%s: %s", field, m[1])
			assert.Equal(t, m[1], "Default"+field, "%s has the default of another", field)
			delete(unused, m[1])
			continue
		}
		known := []string{"GenerateClientID", "ValidID", "Logger"}
		if value.IsZero() {
			known = zeroStays
		}
		assert.Contains(t, known, field, "zero: %v", value.IsZero())
	}
	assert.Empty(t, unused, "no comment names these defaults")
}

func TestDefaultsThatAreFunctionsDoWhatTheySay(t *testing.T) {
	o := Options{}.withDefaults()
	id, err := o.GenerateClientID(nil)
	require.NoError(t, err)
	require.Regexp(t, uuid4, id)
	require.True(t, o.ValidID("any id ☃"))
	require.False(t, o.ValidID(""))
	require.False(t, o.Logger.Enabled(t.Context(), slog.LevelError), "silent")
}

func TestNegativeNumbersSurviveDefaults(t *testing.T) {
	var o Options
	v := reflect.ValueOf(&o).Elem()
	eachNumber := func(v reflect.Value, f func(name string, field reflect.Value)) {
		for i := range v.NumField() {
			if v.Field(i).CanInt() || v.Field(i).CanFloat() {
				f(v.Type().Field(i).Name, v.Field(i))
			}
		}
	}
	count := 0
	eachNumber(v, func(_ string, field reflect.Value) { field.Set(reflect.ValueOf(-1).Convert(field.Type())); count++ })
	require.Equal(t, len(defaults)-1+2, count, "all defaults but the key, and two limits that are none")
	o = o.withDefaults()
	eachNumber(v, func(name string, field reflect.Value) {
		if name == "ExpireTimeout" { // is added to the time, so it becomes as long as can be
			assert.Equal(t, forever, o.ExpireTimeout)
			assert.True(t, time.Now().Add(forever).After(time.Now().AddDate(99, 0, 0)), "no overflow")
			return
		}
		assert.Equal(t, reflect.ValueOf(-1).Convert(field.Type()).Interface(), field.Interface(), name)
	})
}

func TestWhatIsSetIsKept(t *testing.T) {
	said := ""
	o := Options{
		Path: "/a/b/", Key: "k", ExpireTimeout: 1, AliveTimeout: 2, HandshakeTimeout: 3, WriteTimeout: 4, ConcurrentLimit: 5, ConcurrentLimitPerAddr: 6,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, AllowDiscovery: true, AllowedOrigins: []string{"https://a"},
		GenerateClientID: func(*http.Request) (string, error) { said += "g"; return "", nil },
		ValidID:          func(string) bool { said += "v"; return true },
		Authenticate:     func(*http.Request, string, string) (any, error) { said += "a"; return nil, nil },
		AllowOverride:    func(_, _ *Client) bool { said += "o"; return true },
		Authorize:        func(*Client, Message) error { said += "z"; return nil },
		AllowJoin:        func(*Client, string, json.RawMessage) error { said += "j"; return nil },
		ICEServers:       func(*Client) []ICEServer { said += "i"; return nil }, ICERefresh: 20, KeepRoomsOnOverride: true,
		ProbeAfter: 7, ProbeTimeout: 8, RejectBeforeUpgrade: true, RelayTypes: []MessageType{"R"}, HoldTypes: []MessageType{"H"},
		MaxMessageSize: 9, MessageRate: 0.5, MaxOutboxMessages: 10, MaxOutboxBytes: 11, MaxHeldPerPair: 12, MaxHeldPerDestination: 13, MaxHeldBytes: 14,
		MaxRooms: 15, MaxRoomMembers: 16, MaxRoomsPerClient: 17, MaxTokenBytes: 18, MaxPartialBytes: 19, TrustUnixProxy: true,
		Logger: slog.Default(), Cluster: cluster.NewMemory().Engine(),
	}
	got := o.withDefaults()
	before, after := reflect.ValueOf(o), reflect.ValueOf(got)
	for i := range before.NumField() {
		name := before.Type().Field(i).Name
		require.False(t, before.Field(i).IsZero(), "the test forgets %s", name)
		switch {
		case name == "Path":
			assert.Equal(t, "a/b", got.Path, "slashes around it do not count")
		case before.Field(i).Kind() != reflect.Func:
			assert.Equal(t, before.Field(i).Interface(), after.Field(i).Interface(), name)
		}
	}
	got.GenerateClientID(nil)
	got.ValidID("")
	got.Authenticate(nil, "", "")
	got.AllowOverride(nil, nil)
	got.Authorize(nil, Message{})
	got.AllowJoin(nil, "", nil)
	got.ICEServers(nil)
	assert.Equal(t, "gvaozji", said)
	assert.Empty(t, Options{Path: "/"}.withDefaults().Path)
}

func TestOptionsAreCopied(t *testing.T) {
	var o Options
	v := reflect.ValueOf(&o).Elem()
	slices := 0
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice {
			f.Set(reflect.MakeSlice(f.Type(), 1, 4))
			slices++
		}
	}
	require.Equal(t, 4, slices)
	o.RelayTypes[0], o.AllowedOrigins[0] = "CHAT", "https://example.com"
	srv := NewServer(o)
	want := Options{AllowedOrigins: []string{"https://example.com"}, TrustedProxies: make([]netip.Prefix, 1), RelayTypes: []MessageType{"CHAT"}, HoldTypes: []MessageType{""}}
	o.RelayTypes[0], o.HoldTypes[0], o.AllowedOrigins[0], o.TrustedProxies[0] = "x", "x", "https://evil.com", netip.MustParsePrefix("::/0")
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Slice {
			assert.Equal(t, reflect.ValueOf(want).Field(i).Interface(), reflect.ValueOf(srv.opts).Field(i).Interface(), v.Type().Field(i).Name)
		}
	}
	assert.True(t, srv.allowsOrigin("https://example.com", "here"))
	assert.False(t, srv.allowsOrigin("https://evil.com", "here"))
	o.Key = "other"
	assert.Equal(t, DefaultKey, srv.opts.Key)
}

// strictID is the rule as the browser client has it.
var strictID = regexp.MustCompile(`^[A-Za-z0-9]+(?:[ _-][A-Za-z0-9]+)*$`)

func TestStrictIDIsTheRuleOfTheClient(t *testing.T) {
	t.Parallel()
	wantSame := func(id string) {
		t.Helper()
		if want := strictID.MatchString(id) && len(id) <= 1024; want != StrictID(id) {
			t.Errorf("StrictID(%q) is %v", id, !want)
		}
	}
	for c := range 256 { // every byte, alone and in each place
		b := string([]byte{byte(c)})
		for _, id := range []string{b, "a" + b, b + "a", "a" + b + "a", b + b, "a" + b + b + "a", string(rune(c)), "a" + string(rune(c)) + "a"} {
			wantSame(id)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	alphabets := []string{"a -_", "aZ09 -_", "azAZ09 _-@[`{/:", "a\n", "aé\xff\x00 "}
	for range 100_000 {
		alphabet := alphabets[rnd.IntN(len(alphabets))]
		id := make([]byte, rnd.IntN(9))
		for i := range id {
			id[i] = alphabet[rnd.IntN(len(alphabet))]
		}
		wantSame(string(id))
	}
	for _, id := range []string{"", "a\n", "2f1c-ok", newUUID(), strings.Repeat("a", 1024), strings.Repeat("a", 1025), strings.Repeat("a-", 512) + "a", strings.Repeat("a-", 511) + "a"} {
		wantSame(id)
	}
}

func TestDefaultRuleTakesAnyTextForAnID(t *testing.T) {
	for id, valid := range map[string]bool{
		"": false, "a": true, " ": true, " a ": true, "Боб ☃ 😀": true, "a/b?c=d&e#f": true, "<b>\"'\\": true, "..": true, "\u2028\u202e\ufeff\u00a0": true, "\ufffd": true,
		"\x00": false, "a\nb": false, "a\tb": false, "\x1f": false, "\x7f": false, "\u0080": false, "a\u0085": false, "\u009f": false, "~": true,
		"\xff": false, "a\xc3": false, "\xed\xa0\x80": false, "\xc0\xaf": false,
		strings.Repeat("a", 1024): true, strings.Repeat("a", 1025): false, strings.Repeat("é", 512): true, strings.Repeat("é", 513): false,
	} {
		assert.Equal(t, valid, validID(id), "%.40q", id)
	}
	for r := rune(1); r < 0x3000; r++ {
		require.Equal(t, !unicode.IsControl(r), validID("a"+string(r)), "%q", r)
	}
}

const uuid4 = `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`

func TestUUIDsAreRandomVersion4(t *testing.T) {
	format := regexp.MustCompile(uuid4)
	seen := make(map[string]bool)
	var digits [36]map[byte]bool
	for range 2000 {
		id := newUUID()
		require.Regexp(t, format, id)
		require.False(t, seen[id])
		seen[id] = true
		for i := range id {
			if digits[i] == nil {
				digits[i] = make(map[byte]bool)
			}
			digits[i][id[i]] = true
		}
	}
	for i, d := range digits {
		want := 16 // 2,000 tries miss one of 16 digits once in 10^55
		switch i {
		case 8, 13, 18, 23, 14: // dashes and the version
			want = 1
		case 19: // the variant
			want = 4
		}
		assert.Len(t, d, want, "digit %d", i)
	}
	assert.True(t, StrictID(newUUID()))
}

func TestOverrideAlwaysSaysYes(t *testing.T) {
	assert.True(t, OverrideAlways(nil, nil))
}

// An empty list in a host's configuration, split, has one empty type.
func TestEmptyTypeIsNoTypeOfAnApplication(t *testing.T) {
	for name, opts := range map[string]Options{"relay": {RelayTypes: []MessageType{""}}, "hold": {HoldTypes: []MessageType{""}}} {
		r := newRig(t, opts)
		a, b := r.connect("alice"), r.connect("bob")
		a.send(`{"dst":"bob"}`)
		a.send(`{"type":5,"dst":"bob"}`)
		a.send(`{"type":"","dst":"bob"}`)
		a.offer("bob", `1`)
		require.JSONEq(t, `{"type":"OFFER","src":"alice","dst":"bob","payload":1}`, b.next(), name)
	}
}
