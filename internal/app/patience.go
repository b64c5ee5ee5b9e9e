package app

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/patience"
)

func limitPatience(short time.Duration, runDir string, log *slog.Logger) (*patience.Limit, error) {
	boot, err := node.BootID()
	if err != nil {
		return nil, err
	}
	return patience.New(nvmesysfs.Default(), short, filepath.Join(node.BootDir(runDir, boot), "patience"), log)
}
