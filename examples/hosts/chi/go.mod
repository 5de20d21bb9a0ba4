module github.com/gopeerjs/peer/examples/hosts/chi

go 1.26.0

require (
	github.com/go-chi/chi/v5 v5.5.0
	github.com/gopeerjs/peer v0.0.0
	github.com/stretchr/testify v1.12.1
	nhooyr.io/websocket v1.8.17
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.24.0 // indirect
)

replace github.com/gopeerjs/peer => ../../..
