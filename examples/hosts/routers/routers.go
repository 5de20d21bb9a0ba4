// Package routers mounts a PeerJS server in the routers that docs/mounting.md shows: in chi,
// echo and fiber under their middleware that compresses answers.
package routers

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/gofiber/fiber/v3/middleware/compress"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/gopeerjs/peer"
)

func inChi(srv *peer.Server) http.Handler {
	r := chi.NewRouter()
	r.Use(chimiddleware.Compress(5))
	r.Handle("/peerjs/*", srv)
	return r
}

func inGin(srv *peer.Server) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Any("/peerjs/*rest", gin.WrapH(srv))
	return r
}

func inEcho(srv *peer.Server) http.Handler {
	e := echo.New()
	e.Use(middleware.Gzip())
	e.Any("/peerjs/*", echo.WrapHandler(srv))
	return e
}

func inGorilla(srv *peer.Server) http.Handler {
	r := mux.NewRouter()
	r.PathPrefix("/peerjs/").Handler(srv)
	return r
}

// inFiber returns what has a listener of its own: fiber is no http.Handler.
func inFiber(srv *peer.Server) *fiber.App {
	app := fiber.New(fiber.Config{ReadBufferSize: 32 << 10})
	app.Use(compress.New())
	app.All("/peerjs/*", adaptor.HTTPHandler(srv))
	return app
}

// outsideOfATimeout mounts the server beside pages that have to be quick.
func outsideOfATimeout(srv *peer.Server, pages http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/peerjs/", srv)
	mux.Handle("/", http.TimeoutHandler(pages, 10*time.Second, "Too slow"))
	return mux
}
