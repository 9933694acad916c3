package world

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestEventually(t *testing.T) {
	errNo := errors.New("not there")
	tests := []struct {
		name  string
		looks []error // what each look returns; the last one repeats
		want  error   // nil = found
	}{
		{"found at once", []error{nil}, nil},
		{"found later", []error{errNo, errNo, nil}, nil},
		{"never found", []error{errNo}, errNo},
		{"needed process ended", []error{errNo, fmt.Errorf("etcd: %w", errEnded), nil}, errEnded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			looks := 0
			err := Eventually(t.Context(), 3*pollEvery, func(context.Context) error {
				i := min(looks, len(tt.looks)-1)
				looks++
				return tt.looks[i]
			})
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("ended context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := Eventually(ctx, time.Hour, func(context.Context) error { return errNo })
		if !errors.Is(err, errNo) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want what was last seen and that the context ended", err)
		}
	})
}
