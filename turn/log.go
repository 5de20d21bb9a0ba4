package turn

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// A pionLog gives pion's log to a slog.Logger, all of it as Debug: what it says is about mistakes of clients
// and about networks, and a stranger can make it say as much as he likes. What it says about each packet is
// left out. None of its messages has a credential; they have usernames and addresses.
type pionLog struct{ log *slog.Logger }

// NewLogger returns l for all of pion.
func (l pionLog) NewLogger(string) logging.LeveledLogger { return l }

func (l pionLog) say(text string) { l.log.Debug("pion", "text", text) }

func (l pionLog) sayf(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.say(fmt.Sprintf(format, args...))
	}
}

func (l pionLog) Trace(string)          {}
func (l pionLog) Tracef(string, ...any) {}
func (l pionLog) Debug(string)          {}
func (l pionLog) Debugf(string, ...any) {}
func (l pionLog) Info(text string)      { l.say(text) }
func (l pionLog) Warn(text string)      { l.say(text) }
func (l pionLog) Error(text string)     { l.say(text) }

func (l pionLog) Infof(format string, args ...any)  { l.sayf(format, args...) }
func (l pionLog) Warnf(format string, args ...any)  { l.sayf(format, args...) }
func (l pionLog) Errorf(format string, args ...any) { l.sayf(format, args...) }
