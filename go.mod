module github.com/gopeerjs/peer

go 1.26.0

require (
	github.com/stretchr/testify v1.12.1
	golang.org/x/sync v0.24.0
	nhooyr.io/websocket v1.8.17
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
