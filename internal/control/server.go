package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// The paths. A volume ID goes into the body: it may hold anything.
const (
	pathVolumes = "/v1/volumes"
	pathAbandon = "/v1/abandon"
)

// maxBody bounds a request: a CSI volume ID has at most 128 bytes.
const maxBody = 4 << 10

// NewServer returns a server for the socket. Slow or silent callers are dropped.
func NewServer(s Service) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathVolumes, func(w http.ResponseWriter, r *http.Request) {
		answer(w, s.Volumes(r.Context()), nil)
	})
	mux.HandleFunc("POST "+pathAbandon, func(w http.ResponseWriter, r *http.Request) {
		id, err := readAbandon(w, r)
		if err == nil {
			err = s.Abandon(r.Context(), id)
		}
		answer(w, struct{}{}, err)
	})
	return &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
}

type abandonRequest struct {
	VolumeID string `json:"volumeID"`
}

func readAbandon(w http.ResponseWriter, r *http.Request) (string, error) {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	var req abandonRequest
	if err := d.Decode(&req); err != nil {
		return "", fmt.Errorf("request: %w: %w", volume.ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || req.VolumeID == "" {
		return "", fmt.Errorf("request: want one object with a volumeID: %w", volume.ErrInvalid)
	}
	return req.VolumeID, nil
}

// failure is the body of an answer that is not OK.
type failure struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(status(err))
		v = failure{err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // the caller has gone: nobody to tell
}

func status(err error) int {
	switch {
	case errors.Is(err, volume.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, volume.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, volume.ErrPrecondition), errors.Is(err, volume.ErrBusy):
		return http.StatusConflict
	default:
		return http.StatusInternalServerError
	}
}
