package store

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Publication returns the publication of the volume to the node.
func (t *Tx) Publication(vol uuid.UUID, node string) (Publication, error) {
	return get[Publication](t.bucket(bucketPublications), publicationKey(vol, node), publicationLabel(vol, node))
}

// PublicationsOf returns the publications of a volume, ordered by node.
func (t *Tx) PublicationsOf(vol uuid.UUID) ([]Publication, error) {
	return scan[Publication](t.bucket(bucketPublications), publicationPrefix(vol), "publication")
}

// Publications returns all publications, ordered by volume and node.
func (t *Tx) Publications() ([]Publication, error) {
	return scan[Publication](t.bucket(bucketPublications), "", "publication")
}

// PublicationsIn returns the publications of a subsystem, ordered by NSID.
func (t *Tx) PublicationsIn(nqn string) ([]Publication, error) {
	return follow[Publication](t.bucket(bucketNamespaces), t.bucket(bucketPublications), nqn+sep, "publication")
}

// PutPublication keeps p in place of an earlier one of the same volume and
// node. An NSID that another publication has in the subsystem is
// volume.ErrExists: two volumes behind one NSID would break the fence.
func (t *Tx) PutPublication(p Publication) error {
	if err := p.validate(); err != nil {
		return err
	}
	index, key := t.bucket(bucketNamespaces), publicationKey(p.Volume, p.Node)
	entry := namespaceKey(p.SubsystemNQN, p.NSID)
	if holder := index.Get(entry); holder != nil && !bytes.Equal(holder, key) {
		return fmt.Errorf("%s: NSID %d of %q is that of publication %q: %w", p.label(), p.NSID, p.SubsystemNQN, holder, volume.ErrExists)
	}
	old, err := t.Publication(p.Volume, p.Node)
	if err == nil {
		err = index.Delete(namespaceKey(old.SubsystemNQN, old.NSID))
	}
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return fmt.Errorf("put %s: %w", p.label(), err)
	}
	if err := index.Put(entry, key); err != nil {
		return fmt.Errorf("put %s: %w", p.label(), err)
	}
	return put(t.bucket(bucketPublications), key, p, p.label())
}

// DeletePublication forgets the publication.
func (t *Tx) DeletePublication(vol uuid.UUID, node string) error {
	p, err := t.Publication(vol, node)
	if err == nil {
		err = t.bucket(bucketNamespaces).Delete(namespaceKey(p.SubsystemNQN, p.NSID))
	}
	if err == nil {
		err = t.bucket(bucketPublications).Delete(publicationKey(vol, node))
	}
	return wrap(err, "delete")
}
