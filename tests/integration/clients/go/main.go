// franz-go. The commands are those of ../driver.py.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

type header [2]*string

type message struct {
	Partition int32    `json:"partition"`
	Offset    int64    `json:"offset"`
	Timestamp *int64   `json:"timestamp"`
	Key       *string  `json:"key"`
	Value     *string  `json:"value"`
	Headers   []header `json:"headers"`
}

type command struct {
	Do         string
	Topic      string
	Partition  *int32
	Partitions json.RawMessage
	Messages   []message
	Codec      string
	Acks       *int
	Idempotent bool
	First      int
	Count      int
	From       json.RawMessage
	TimeoutMs  int `json:"timeout_ms"`
	Group      string
	Instance   *string
	Offset     int64
	Before     int64
	Config     map[string]string

	Bootstrap, Ca, Certificate, Key, Mechanism, User, Password, Token string
}

type answer map[string]any

type driver struct {
	bootstrap string
	security  []kgo.Opt
	member    *kgo.Client
	mutex     sync.Mutex
	assigned  map[int32]bool
}

func b64(bytes []byte) *string {
	if bytes == nil {
		return nil
	}
	text := base64.StdEncoding.EncodeToString(bytes)
	return &text
}

func raw(text *string) []byte {
	if text == nil {
		return nil
	}
	bytes, _ := base64.StdEncoding.DecodeString(*text)
	return bytes
}

func fromRecord(r *kgo.Record) message {
	at := r.Timestamp.UnixMilli()
	m := message{r.Partition, r.Offset, &at, b64(r.Key), b64(r.Value), []header{}}
	for _, h := range r.Headers {
		name := h.Key
		m.Headers = append(m.Headers, header{&name, b64(h.Value)})
	}
	return m
}

func (d *driver) client(more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(append([]kgo.Opt{kgo.SeedBrokers(d.bootstrap), kgo.ClientID("franz-go"),
		kgo.AllowAutoTopicCreation(), kgo.FetchMaxPartitionBytes(8 << 20), kgo.FetchMaxWait(200 * time.Millisecond)}, d.security...), more...)...)
}

func withTLS(c *command) (kgo.Opt, error) {
	settings := &tls.Config{RootCAs: x509.NewCertPool()}
	text, err := os.ReadFile(c.Ca)
	if err == nil && !settings.RootCAs.AppendCertsFromPEM(text) {
		err = errors.New("no certificate in " + c.Ca)
	}
	if err == nil && c.Certificate != "" {
		settings.Certificates = make([]tls.Certificate, 1)
		settings.Certificates[0], err = tls.LoadX509KeyPair(c.Certificate, c.Key)
	}
	return kgo.DialTLSConfig(settings), err
}

func (d *driver) secure(c *command) (answer, error) {
	encrypted, err := withTLS(c)
	if err != nil {
		return nil, err
	}
	d.bootstrap, d.security = c.Bootstrap, []kgo.Opt{encrypted}
	password := scram.Auth{User: c.User, Pass: c.Password}
	switch c.Mechanism {
	case "":
	case "PLAIN":
		d.security = append(d.security, kgo.SASL(plain.Auth{User: c.User, Pass: c.Password}.AsMechanism()))
	case "SCRAM-SHA-256":
		d.security = append(d.security, kgo.SASL(password.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		d.security = append(d.security, kgo.SASL(password.AsSha512Mechanism()))
	case "OAUTHBEARER":
		token, err := os.ReadFile(c.Token)
		if err != nil {
			return nil, err
		}
		d.security = append(d.security, kgo.SASL(oauth.Auth{Token: string(token)}.AsMechanism()))
	default:
		return answer{"unsupported": "franz-go has no Kerberos of its own"}, nil
	}
	return nil, nil
}

func (d *driver) producer(c *command, more ...kgo.Opt) (*kgo.Client, error) {
	options := append(more, kgo.ProducerBatchMaxBytes(64<<20), kgo.BrokerMaxWriteBytes(100<<20),
		kgo.ProducerLinger(5*time.Millisecond), kgo.RecordRetries(10))
	if c.Partition != nil {
		options = append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	acks := map[int]kgo.Acks{0: kgo.NoAck(), 1: kgo.LeaderAck(), -1: kgo.AllISRAcks()}
	if c.Acks != nil {
		options = append(options, kgo.RequiredAcks(acks[*c.Acks]))
	}
	if !c.Idempotent {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	return d.client(options...)
}

func (d *driver) produce(c *command) (answer, error) {
	codecs := map[string]kgo.CompressionCodec{"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	codec, compressed := codecs[c.Codec]
	if !compressed {
		codec = kgo.NoCompression()
	}
	client, err := d.producer(c, kgo.ProducerBatchCompression(codec))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	records := []*kgo.Record{}
	for _, m := range c.Messages {
		record := &kgo.Record{Topic: c.Topic, Key: raw(m.Key), Value: raw(m.Value)}
		if c.Partition != nil {
			record.Partition = *c.Partition
		}
		if m.Timestamp != nil {
			record.Timestamp = time.UnixMilli(*m.Timestamp)
		}
		for _, h := range m.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: *h[0], Value: raw(h[1])})
		}
		records = append(records, record)
	}
	limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	offsets := []int64{}
	for _, done := range client.ProduceSync(limit, records...) {
		if done.Err != nil {
			return nil, done.Err
		}
		if c.Acks != nil && *c.Acks == 0 {
			offsets = append(offsets, -1)
		} else {
			offsets = append(offsets, done.Record.Offset)
		}
	}
	sort.Slice(offsets, func(i, j int) bool { return offsets[i] < offsets[j] })
	return answer{"offsets": offsets}, nil
}

func (d *driver) numbers(c *command) (answer, error) {
	more := []kgo.Opt{kgo.RecordRetries(10000), kgo.RetryTimeout(60 * time.Second),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond })}
	if !c.Idempotent {
		more = append(more, kgo.MaxProduceRequestsInflightPerBroker(1))
	}
	client, err := d.producer(c, more...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	acknowledged := 0
	for n := c.First; n < c.First+c.Count; n += 100 {
		records := []*kgo.Record{}
		for i := n; i < min(n+100, c.First+c.Count); i++ {
			records = append(records, &kgo.Record{Topic: c.Topic, Partition: *c.Partition, Value: []byte(strconv.Itoa(i))})
		}
		for _, done := range client.ProduceSync(context.Background(), records...) {
			if done.Err != nil {
				return nil, done.Err
			}
			acknowledged++
		}
	}
	return answer{"acknowledged": acknowledged}, nil
}

func offsetOf(from json.RawMessage) kgo.Offset {
	var name string
	if json.Unmarshal(from, &name) == nil {
		if name == "latest" {
			return kgo.NewOffset().AtEnd()
		}
		return kgo.NewOffset().AtStart()
	}
	var at struct{ Offset, Time *int64 }
	_ = json.Unmarshal(from, &at)
	if at.Time != nil {
		return kgo.NewOffset().AfterMilli(*at.Time)
	}
	return kgo.NewOffset().At(*at.Offset)
}

func polled(client *kgo.Client, count, timeoutMs int) ([]message, error) {
	limit, cancel := context.WithTimeout(context.Background(), time.Duration(timeoutMs)*time.Millisecond)
	defer cancel()
	got := []message{}
	for len(got) < count && limit.Err() == nil {
		fetches := client.PollRecords(limit, count-len(got))
		for _, failed := range fetches.Errors() {
			if !errors.Is(failed.Err, context.DeadlineExceeded) {
				return nil, failed.Err
			}
		}
		fetches.EachRecord(func(r *kgo.Record) { got = append(got, fromRecord(r)) })
	}
	return got, nil
}

func (d *driver) consume(c *command) (answer, error) {
	client, err := d.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		c.Topic: {*c.Partition: offsetOf(c.From)}}))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	got, err := polled(client, c.Count, c.TimeoutMs)
	return answer{"messages": got}, err
}

func (d *driver) join(c *command) (answer, error) {
	d.assigned = map[int32]bool{}
	change := func(to bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			d.mutex.Lock()
			defer d.mutex.Unlock()
			for _, p := range topics[c.Topic] {
				if to {
					d.assigned[p] = true
				} else {
					delete(d.assigned, p)
				}
			}
		}
	}
	options := []kgo.Opt{kgo.ConsumerGroup(c.Group), kgo.ConsumeTopics(c.Topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(6 * time.Second),
		kgo.HeartbeatInterval(500 * time.Millisecond), kgo.OnPartitionsAssigned(change(true)),
		kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false))}
	if c.Instance != nil {
		options = append(options, kgo.InstanceID(*c.Instance))
	}
	var err error
	d.member, err = d.client(options...)
	return nil, err
}

func (d *driver) poll(c *command) (answer, error) {
	got, err := polled(d.member, c.Count, c.TimeoutMs)
	d.mutex.Lock()
	defer d.mutex.Unlock()
	assigned := []int{}
	for p := range d.assigned {
		assigned = append(assigned, int(p))
	}
	sort.Ints(assigned)
	return answer{"messages": got, "assigned": assigned}, err
}

func (d *driver) admin(act func(context.Context, *kadm.Client) (answer, error)) (answer, error) {
	client, err := d.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return act(limit, kadm.NewClient(client))
}

func strings(m map[string]string) map[string]*string {
	pointers := map[string]*string{}
	for name, value := range m {
		pointers[name] = kadm.StringPtr(value)
	}
	return pointers
}

func (d *driver) alter(limit context.Context, a *kadm.Client, c *command) (answer, error) {
	changes := []kadm.AlterConfig{}
	for name, value := range c.Config {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: kadm.StringPtr(value)})
	}
	done, err := a.AlterTopicConfigs(limit, changes, c.Topic)
	if err == nil {
		_, err = done.On(c.Topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	return nil, err
}

func (d *driver) committed(limit context.Context, a *kadm.Client, c *command) (answer, error) {
	found, err := a.FetchOffsets(limit, c.Group)
	if err != nil {
		return nil, err
	}
	partitions, offsets := []int32{}, []int64{}
	_ = json.Unmarshal(c.Partitions, &partitions)
	for _, p := range partitions {
		if at, ok := found.Lookup(c.Topic, p); ok {
			offsets = append(offsets, at.At)
		} else {
			offsets = append(offsets, -1)
		}
	}
	return answer{"offsets": offsets}, nil
}

func (d *driver) administer(limit context.Context, a *kadm.Client, c *command) (answer, error) {
	switch c.Do {
	case "create":
		var partitions int32
		_ = json.Unmarshal(c.Partitions, &partitions)
		_, err := a.CreateTopic(limit, partitions, 1, strings(c.Config), c.Topic)
		return nil, err
	case "delete":
		_, err := a.DeleteTopic(limit, c.Topic)
		return nil, err
	case "add_partitions":
		done, err := a.UpdatePartitions(limit, c.Count, c.Topic)
		if err == nil {
			err = done.Error()
		}
		return nil, err
	case "alter":
		return d.alter(limit, a, c)
	case "describe":
		found, err := a.DescribeTopicConfigs(limit, c.Topic)
		if err != nil {
			return nil, err
		}
		config := map[string]string{}
		_, err = found.On(c.Topic, func(r *kadm.ResourceConfig) error {
			for _, one := range r.Configs {
				config[one.Key] = one.MaybeValue()
			}
			return r.Err
		})
		return answer{"config": config}, err
	case "delete_records":
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: c.Topic, Partition: *c.Partition, At: c.Before})
		done, err := a.DeleteRecords(limit, offsets)
		if err == nil {
			err = done.Error()
		}
		return nil, err
	case "topics":
		found, err := a.ListTopics(limit)
		return answer{"topics": found.Names()}, err
	case "groups":
		found, err := a.ListGroups(limit)
		return answer{"groups": found.Groups()}, err
	case "describe_group":
		found, err := a.DescribeGroups(limit, c.Group)
		if err != nil {
			return nil, err
		}
		return answer{"state": found[c.Group].State, "members": len(found[c.Group].Members)}, found[c.Group].Err
	case "delete_group":
		_, err := a.DeleteGroup(limit, c.Group)
		return nil, err
	case "committed":
		return d.committed(limit, a, c)
	case "set_offset":
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: c.Topic, Partition: *c.Partition, At: c.Offset, LeaderEpoch: -1})
		return nil, a.CommitAllOffsets(limit, c.Group, offsets)
	}
	return answer{"unsupported": "the client has no such call"}, nil
}

func (d *driver) run(c *command) (answer, error) {
	switch c.Do {
	case "secure":
		return d.secure(c)
	case "produce":
		return d.produce(c)
	case "numbers":
		return d.numbers(c)
	case "consume":
		return d.consume(c)
	case "join":
		return d.join(c)
	case "poll":
		return d.poll(c)
	case "commit":
		return nil, d.member.CommitUncommittedOffsets(context.Background())
	case "leave":
		d.member.Close()
		return nil, nil
	}
	return d.admin(func(limit context.Context, a *kadm.Client) (answer, error) { return d.administer(limit, a, c) })
}

func main() {
	d := &driver{bootstrap: os.Args[1]}
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		c := command{}
		result, err := answer(nil), json.Unmarshal(line, &c)
		if err == nil {
			result, err = d.run(&c)
		}
		if err != nil {
			result = answer{"error": fmt.Sprintf("%v", err)}
		} else if result == nil {
			result = answer{}
		}
		text, _ := json.Marshal(result)
		fmt.Println(string(text))
	}
}
