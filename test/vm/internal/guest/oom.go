//go:build linux

package guest

import (
	"fmt"
	"os"
	"os/exec"
)

// keptFromOOM is the score of a process that the kernel never kills for its memory (OOM_SCORE_ADJ_MIN).
const keptFromOOM = -1000

// keepFromOOM makes this process outlive a machine that is out of memory, as the harness has to see what becomes of it.
func keepFromOOM() error { return scoreOOM("self", keptFromOOM) }

// start starts a program that the kernel may kill for its memory, although its parent is kept from that.
func start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = scoreOOM(fmt.Sprint(cmd.Process.Pid), 0) // fails for a program that has ended
	return nil
}

func scoreOOM(process string, score int) error {
	return os.WriteFile("/proc/"+process+"/oom_score_adj", fmt.Append(nil, score), 0)
}
