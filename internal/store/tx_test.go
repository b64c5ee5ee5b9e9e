package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func vol(n byte, name string) Volume {
	return Volume{UUID: uuid.UUID{15: n}, Name: name, State: VolumeReady}
}

func pub(n byte, node, nqn string, nsid uint32) Publication {
	return Publication{Volume: uuid.UUID{15: n}, Node: node, SubsystemNQN: nqn, NSID: nsid, State: PublicationPublished}
}

func inTx(t *testing.T, fn func(*Tx) error) error {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "db")).Update(fn)
}

func TestNotFound(t *testing.T) {
	id := uuid.New()
	err := inTx(t, func(tx *Tx) error {
		_, e1 := tx.Volume(id)
		_, e2 := tx.VolumeByName("gone")
		_, e3 := tx.Publication(id, "n")
		_, e4 := tx.Session("nqn")
		for _, err := range []error{e1, e2, e3, e4, tx.DeleteVolume(id), tx.DeletePublication(id, "n"), tx.DeleteSession("nqn")} {
			wantErr(t, err, volume.ErrNotFound)
		}
		wantErr(t, e1, volume.ErrNotFound, id.String())
		wantErr(t, e2, volume.ErrNotFound, "gone")
		wantErr(t, e3, volume.ErrNotFound, id.String(), `"n"`)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPutRefuses(t *testing.T) {
	bad := func(change func(*Publication)) Publication {
		p := pub(1, "n", "q", 1)
		change(&p)
		return p
	}
	err := inTx(t, func(tx *Tx) error {
		if err := errors.Join(tx.PutVolume(vol(1, "a")), tx.PutPublication(pub(1, "n", "q", 1))); err != nil {
			return err
		}
		wantErr(t, tx.PutVolume(vol(2, "a")), volume.ErrExists, `"a"`, vol(1, "").UUID.String())
		wantErr(t, tx.PutPublication(pub(2, "n", "q", 1)), volume.ErrExists, "NSID 1")
		for _, err := range []error{
			tx.PutVolume(vol(0, "z")), tx.PutVolume(vol(3, "")), tx.PutVolume(Volume{UUID: uuid.New(), Name: "s", State: "odd"}),
			tx.PutPublication(bad(func(p *Publication) { p.Volume = uuid.Nil })),
			tx.PutPublication(bad(func(p *Publication) { p.Node = "" })),
			tx.PutPublication(bad(func(p *Publication) { p.SubsystemNQN = "" })),
			tx.PutPublication(bad(func(p *Publication) { p.SubsystemNQN = "a\x00b" })),
			tx.PutPublication(bad(func(p *Publication) { p.NSID = 0 })),
			tx.PutPublication(bad(func(p *Publication) { p.State = "" })),
			tx.PutSession(Session{}), tx.PutSession(Session{NQN: "q", Profile: "a\x00b"}),
		} {
			wantErr(t, err, volume.ErrInvalid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Prefixes must not run into each other: node "n" and "n2", NQN "q" and "q2".
func TestPrefixesAreExact(t *testing.T) {
	err := inTx(t, func(tx *Tx) error {
		err := errors.Join(
			tx.PutPublication(pub(1, "n", "q", 256)), tx.PutPublication(pub(1, "n2", "q2", 1)),
			tx.PutPublication(pub(2, "n", "q", 2)),
			tx.PutSession(Session{NQN: "q", Node: "n", Pool: "p", Profile: "x"}),
			tx.PutSession(Session{NQN: "q2", Node: "n", Pool: "p", Profile: "x2"}),
			tx.PutSession(Session{NQN: "q3", Node: "n", Pool: "px", Profile: ""}))
		if err != nil {
			return err
		}
		in, err := tx.PublicationsIn("q")
		if len(in) != 2 || in[0].NSID != 2 || in[1].NSID != 256 {
			t.Errorf("publications in q: %+v", in)
		}
		of, err2 := tx.PublicationsOf(uuid.UUID{15: 1})
		if len(of) != 2 || of[0].Node != "n" || of[1].Node != "n2" {
			t.Errorf("publications of 1: %+v", of)
		}
		ss, err3 := tx.SessionsOf("n", "p", "x")
		if len(ss) != 1 || ss[0].NQN != "q" {
			t.Errorf("sessions of n, p, x: %+v", ss)
		}
		return errors.Join(err, err2, err3)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestVolumesPage(t *testing.T) {
	err := inTx(t, func(tx *Tx) error {
		for n := byte(9); n >= 1; n-- {
			if err := tx.PutVolume(vol(n, fmt.Sprint("v", n))); err != nil {
				return err
			}
		}
		if err := tx.DeleteVolume(uuid.UUID{15: 4}); err != nil {
			return err
		}
		for _, c := range []struct {
			after byte
			limit int
			want  []byte
		}{
			{0, 0, []byte{1, 2, 3, 5, 6, 7, 8, 9}}, {0, 2, []byte{1, 2}}, {2, 2, []byte{3, 5}},
			{4, 1, []byte{5}}, {9, 3, nil}, {8, 3, []byte{9}},
		} {
			list, err := tx.Volumes(uuid.UUID{15: c.after}, c.limit)
			var got []byte
			for _, v := range list {
				got = append(got, v.UUID[15])
			}
			if err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("after %d limit %d: %v, %v; want %v", c.after, c.limit, got, err, c.want)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUpdateRollsBackAndViewIsReadOnly(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	boom := errors.New("boom")
	if err := d.Update(func(tx *Tx) error { return errors.Join(tx.PutVolume(vol(1, "a")), boom) }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	err := d.View(func(tx *Tx) error {
		_, err := tx.VolumeByName("a")
		wantErr(t, err, volume.ErrNotFound)
		return tx.PutVolume(vol(1, "a"))
	})
	if err == nil {
		t.Error("a view has written")
	}
}

func TestDamageIsNotAbsence(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"))
	err := d.Update(func(tx *Tx) error {
		id := volumeKey(vol(1, "").UUID)
		if err := tx.bucket(bucketNames).Put([]byte("dangling"), id); err != nil {
			return err
		}
		_, err := tx.VolumeByName("dangling")
		wantErr(t, err, volume.ErrDataLoss)
		if errors.Is(err, volume.ErrNotFound) {
			t.Error("damage is taken for absence")
		}
		if err := tx.bucket(bucketVolumes).Put(id, []byte("{")); err != nil {
			return err
		}
		_, err = tx.Volume(uuid.UUID{15: 1})
		wantErr(t, err, volume.ErrDataLoss)
		_, err = tx.Volumes(uuid.Nil, 0)
		wantErr(t, err, volume.ErrDataLoss)
		wantErr(t, tx.PutVolume(vol(1, "new")), volume.ErrDataLoss)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// model is what the database should hold, kept without any index.
type model struct {
	vols map[uuid.UUID]Volume
	pubs map[string]Publication
	sess map[string]Session
}

func TestIndexesAgainstModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d := open(t, path)
	d.bolt.NoSync = true // speed only
	m := model{map[uuid.UUID]Volume{}, map[string]Publication{}, map[string]Session{}}
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		err := d.Update(func(tx *Tx) error {
			for range 25 {
				m.step(t, tx, rng)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.View(func(tx *Tx) error { return m.compare(t, tx) }); err != nil || t.Failed() {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// step does one random change to both and compares the outcomes.
func (m model) step(t *testing.T, tx *Tx, rng *rand.Rand) {
	n, node := byte(rng.IntN(6)+1), fmt.Sprint("n", rng.IntN(3))
	id, nqn := uuid.UUID{15: n}, fmt.Sprint("q", rng.IntN(3))
	key := string(publicationKey(id, node))
	var got, want error
	switch rng.IntN(6) {
	case 0:
		v := vol(n, fmt.Sprint("name", rng.IntN(6)))
		for _, o := range m.vols {
			if o.Name == v.Name && o.UUID != v.UUID {
				want = volume.ErrExists
			}
		}
		if got = tx.PutVolume(v); got == nil {
			m.vols[id] = v
		}
	case 1:
		want = missing(m.vols, id)
		got = tx.DeleteVolume(id)
		delete(m.vols, id)
	case 2:
		p := pub(n, node, nqn, uint32(rng.IntN(8)+1))
		for k, o := range m.pubs {
			if o.SubsystemNQN == p.SubsystemNQN && o.NSID == p.NSID && k != key {
				want = volume.ErrExists
			}
		}
		if got = tx.PutPublication(p); got == nil {
			m.pubs[key] = p
		}
	case 3:
		want = missing(m.pubs, key)
		got = tx.DeletePublication(id, node)
		delete(m.pubs, key)
	case 4:
		s := Session{NQN: nqn, Node: node, Pool: "p", Profile: fmt.Sprint(rng.IntN(2)), NextNSID: rng.Uint32()}
		got = tx.PutSession(s)
		m.sess[nqn] = s
	case 5:
		want = missing(m.sess, nqn)
		got = tx.DeleteSession(nqn)
		delete(m.sess, nqn)
	}
	if !errors.Is(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func missing[K comparable, V any](m map[K]V, key K) error {
	if _, ok := m[key]; !ok {
		return volume.ErrNotFound
	}
	return nil
}

func (m model) compare(t *testing.T, tx *Tx) error {
	var errs []error
	same := func(what string, want any, got any, err error) {
		errs = append(errs, err)
		if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	vols, err := tx.Volumes(uuid.Nil, 0)
	same("volumes", sorted(m.vols, func(v Volume) string { return v.UUID.String() }, nil), vols, err)
	pubs, err := tx.Publications()
	byKey := func(p Publication) string { return string(publicationKey(p.Volume, p.Node)) }
	same("publications", sorted(m.pubs, byKey, nil), pubs, err)
	sess, err := tx.Sessions()
	byNQN := func(s Session) string { return s.NQN }
	same("sessions", sorted(m.sess, byNQN, nil), sess, err)
	for _, v := range m.vols {
		got, err := tx.VolumeByName(v.Name)
		same(v.Name, v, got, err)
		of, err := tx.PublicationsOf(v.UUID)
		same("of", sorted(m.pubs, byKey, func(p Publication) bool { return p.Volume == v.UUID }), of, err)
	}
	for i := range 3 {
		nqn, node := fmt.Sprint("q", i), fmt.Sprint("n", i)
		in, err := tx.PublicationsIn(nqn)
		same(nqn, sorted(m.pubs, func(p Publication) string { return fmt.Sprintf("%08d", p.NSID) },
			func(p Publication) bool { return p.SubsystemNQN == nqn }), in, err)
		of, err := tx.SessionsOf(node, "p", "1")
		same(node, sorted(m.sess, byNQN, func(s Session) bool { return s.Node == node && s.Profile == "1" }), of, err)
	}
	for bucket, want := range map[string]int{bucketNames: len(m.vols), bucketNamespaces: len(m.pubs), bucketProfiles: len(m.sess)} {
		same("entries of "+bucket, want, entries(tx.bucket(bucket)), nil)
	}
	return errors.Join(errs...)
}

func entries(b *bbolt.Bucket) (n int) {
	_ = b.ForEach(func(_, _ []byte) error { n++; return nil })
	return n
}

func sorted[K comparable, V any](m map[K]V, key func(V) string, keep func(V) bool) (list []V) {
	for _, v := range m {
		if keep == nil || keep(v) {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b V) int { return cmp.Compare(key(a), key(b)) })
	return list
}
