package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// On a connection the plugin sends one frame, the request. The server sends an
// empty frame when it takes the request, before anything is done, and then the
// reply; a refusal (busy, other protocol) is a reply without the empty frame.
// So a plugin that sees the connection end knows whether work was begun, and a
// daemon that hangs is told from one that works for long. The plugin sends
// nothing more; when it closes, the work is cancelled. "meta-cnid oneshot" has
// the request on standard input and the reply on standard output, with no
// empty frame.

// MaxFrame is the largest message in bytes, without its 4 bytes of length.
const MaxFrame = 1 << 20

// MaxConfig is the largest Config in bytes that fits a frame: base64 makes 4
// bytes of 3, and 64 KiB are left for the rest.
const MaxConfig = (MaxFrame - 64<<10) / 4 * 3

// WriteFrame writes message as JSON behind its length (4 bytes, big endian) in
// one Write. It fails with ErrFrameTooLarge before anything is written.
func WriteFrame(w io.Writer, message any) error {
	frame, err := encode(message)
	if err != nil {
		return err
	}
	_, err = w.Write(frame)
	return err
}

// ReadFrame reads one frame into message. io.EOF means that nothing came,
// io.ErrUnexpectedEOF that the frame was cut off.
func ReadFrame(r io.Reader, message any) error {
	payload, err := readPayload(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(payload, message); err != nil {
		return fmt.Errorf("message of %d bytes: %w", len(payload), err)
	}
	return nil
}

// encode is the frame of message, length included.
func encode(message any) ([]byte, error) {
	if m, ok := message.(interface{ valid() error }); ok {
		if err := m.valid(); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	b.Write(make([]byte, 4))
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(message); err != nil {
		return nil, err
	}
	frame := b.Bytes()
	frame = frame[:len(frame)-1] // the encoder's newline
	if n := len(frame) - 4; n > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes", ErrFrameTooLarge, n)
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame, nil
}

// readPayload reads one frame's bytes. Memory grows with what arrives, not
// with what the header promises.
func readPayload(r io.Reader) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(header[:]))
	if n > MaxFrame {
		return nil, fmt.Errorf("%w: header says %d bytes", ErrFrameTooLarge, n)
	}
	var b bytes.Buffer
	got, err := io.Copy(&b, io.LimitReader(r, n))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if got < n {
		return nil, io.ErrUnexpectedEOF
	}
	return b.Bytes(), nil
}
