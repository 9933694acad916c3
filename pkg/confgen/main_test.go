package confgen

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the golden files")
	if os.Getenv("CONFGEN_CRASH_DIR") != "" {
		crashChild()
		return
	}
	goleak.VerifyTestMain(m)
}

func update() bool { return flag.Lookup("update").Value.String() == "true" }
