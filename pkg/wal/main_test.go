package wal

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("WAL_CHILD_DIR") != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}
