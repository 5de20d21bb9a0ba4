// Package look has the style sheet that pages of the examples share.
package look

import (
	_ "embed"
	"net/http"
)

//go:embed look.css
var css []byte

// Serve answers with the style sheet.
func Serve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Write(css)
}
