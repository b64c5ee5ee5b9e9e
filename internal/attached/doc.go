// Package attached says whether Kubernetes has a volume attached to this node, for
// volumes of a target that is not ours: nobody else knows. It remembers the
// VolumeAttachment that a volume was staged under, because one that was deleted and
// made anew says that another node may have had the volume in between.
//
// It decides nothing and watches nothing in the API server: one question for each volume
// when it is staged and every ten minutes, and more only at the end of a long outage.
package attached
