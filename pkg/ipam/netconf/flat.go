package netconf

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// merge fills what the definition leaves empty from the flat file, as
// Whereabouts does, but for the keys that say where addresses come from: those
// are for definitions that name none. Whereabouts adds the file's range to
// every definition that has only ipRanges, so that its pods get an address
// more than they should.
func (s object) merge(flat object) []string {
	var notes []string
	if unread := flat.dead(); len(unread) > 0 {
		notes = append(notes, fmt.Sprintf("flat file: %s: without effect here", strings.Join(unread, ", ")))
	}
	own := s.namesAddresses()
	for _, key := range slices.Sorted(maps.Keys(flat)) {
		switch key {
		case "type", "name", "enable_overlapping_ranges": // never the file's, as in Whereabouts
			continue
		case "range", "ipRanges", "pool", "pools":
			if own && flat.has(key) {
				notes = append(notes, fmt.Sprintf("flat file: %s isn't used: the definition has ranges or pools of its own", key))
			}
			if own {
				continue
			}
		case "range_start", "range_end", "exclude":
			if own && !s.has("range") {
				continue
			}
		case "dns":
			s.mergeInside(key, flat)
			continue
		}
		if _, dead := deadKeys()[key]; !dead && !s.has(key) {
			s[key] = flat[key]
		}
	}
	return notes
}

// dead are the file's keys that steer nothing here; Whereabouts' installer
// writes some of them itself, so that they share one note.
func (s object) dead() []string {
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(deadKeys())) {
		if s.has(key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// mergeInside fills what the object of that key leaves empty; flat is valid.
func (s object) mergeInside(key string, flat object) {
	if !s.has(key) {
		s[key] = flat[key]
		return
	}
	known := fieldsOf(reflect.TypeFor[types.DNS]())
	inner, err := readObject(s[key], known)
	other, otherErr := readObject(flat[key], known)
	if err != nil || otherErr != nil {
		return // decode refuses the definition's, and has refused the file's
	}
	for name, value := range other {
		if !inner.has(name) {
			inner[name] = value
		}
	}
	if data, err := json.Marshal(inner); err == nil { // of valid JSON
		s[key] = data
	}
}
