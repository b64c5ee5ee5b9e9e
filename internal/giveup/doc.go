// Package giveup gives up volumes that wait for their storage host, when somebody who
// has no way to the node asks for it: by an annotation on the PersistentVolume. It
// asks for the annotations of volumes in an outage only, and gives nothing up whose
// annotation does not name it.
//
// It does not decide that an outage has lasted long enough: nobody but a person does.
package giveup
