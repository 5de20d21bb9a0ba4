module github.com/gopeerjs/peer/bench

go 1.26.0
