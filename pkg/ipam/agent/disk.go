package agent

import "github.com/meta-cni/meta-cni/pkg/wal"

// Disk makes a *wal.Log a Log.
type Disk struct{ *wal.Log }

// Append is wal.Log.Append.
func (d Disk) Append(record []byte) (Ticket, error) { return ticket(d.Log.Append(record)) }

// AppendReserved is wal.Log.AppendReserved.
func (d Disk) AppendReserved(record []byte) (Ticket, error) {
	return ticket(d.Log.AppendReserved(record))
}

// ticket keeps a nil pointer from becoming an interface that isn't nil.
func ticket(t *wal.Ticket, err error) (Ticket, error) {
	if err != nil {
		return nil, err
	}
	return t, nil
}

var _ Log = Disk{}
