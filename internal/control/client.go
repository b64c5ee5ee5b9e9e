package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Client speaks to the plugin of this node.
type Client struct {
	http   http.Client
	socket string
}

// NewClient returns a client for a socket. It connects when it is used.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Volumes returns what is staged.
func (c *Client) Volumes(ctx context.Context) (list []Volume, err error) {
	err = c.call(ctx, http.MethodGet, pathVolumes, nil, &list)
	return list, err
}

// Abandon gives one volume up.
func (c *Client) Abandon(ctx context.Context, volumeID string) error {
	return c.call(ctx, http.MethodPost, pathAbandon, abandonRequest{volumeID}, &struct{}{})
}

func (c *Client) call(ctx context.Context, method, path string, body, out any) (err error) {
	var b bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, &b)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("the node plugin does not answer at %s: %w", c.socket, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(text, &f) != nil || f.Error == "" {
			f.Error = resp.Status
		}
		return errors.New(f.Error)
	}
	return json.Unmarshal(text, out)
}
