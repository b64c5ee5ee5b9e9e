package app

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/patience"
)

// limitPatience returns nil, which leaves the kernel's time alone, for 0.
func limitPatience(short time.Duration, runDir string, log *slog.Logger) (*patience.Limit, error) {
	if short == 0 {
		return nil, nil
	}
	boot, err := node.BootID()
	if err != nil {
		return nil, err
	}
	return patience.New(nvmesysfs.Default(), short, filepath.Join(node.BootDir(runDir, boot), "patience"), log)
}
