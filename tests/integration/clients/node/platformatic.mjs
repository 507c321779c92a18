// @platformatic/kafka 1.x

import { Admin, Consumer, Producer } from '@platformatic/kafka'
import { Inbox, Unsupported, b64, certificates, raw, serve, sleep, text, within } from './driver.mjs'

const TOPIC = 2 // of a configuration's resource
const codecs = { none: 'none', gzip: 'gzip', snappy: 'snappy', lz4: 'lz4', zstd: 'zstd' }

const message = (m) => ({
  offset: Number(m.offset),
  timestamp: Number(m.timestamp),
  key: m.key === undefined || m.key?.length === 0 ? null : b64(m.key),
  value: b64(m.value),
  headers: [...m.headers].map(([n, v]) => [n.toString(), b64(v)])
})

class Client {
  constructor (bootstrap) {
    this.options = { clientId: 'platformatic', bootstrapBrokers: [bootstrap], retries: 3, retryDelay: 50, timeout: 10000 }
  }

  async secure (c) {
    if (c.mechanism === 'GSSAPI') throw new Unsupported('@platformatic/kafka has no Kerberos')
    const sasl = c.mechanism && { mechanism: c.mechanism, username: c.user, password: c.password, token: text(c.token) }
    this.options = { ...this.options, bootstrapBrokers: [c.bootstrap], tls: certificates(c), sasl }
  }

  async sent (messages, options) {
    const producer = new Producer({ ...this.options, ...(options.retries ? { retries: options.retries } : {}) })
    delete options.retries
    try {
      return await within(60000, producer.send({ messages, ...options }), 'send')
    } finally {
      await producer.close().catch(() => {})
    }
  }

  async produce ({ topic, partition, messages, codec = 'none', acks = -1, idempotent = false }) {
    if (codec === 'zstd' && !(await import('node:zlib')).zstdCompressSync) throw new Unsupported('this node has no zstd')
    const done = await this.sent(messages.map((m) => ({
      topic,
      partition: partition ?? undefined,
      key: raw(m.key) ?? undefined,
      value: raw(m.value),
      timestamp: m.timestamp ? BigInt(m.timestamp) : undefined,
      headers: new Map((m.headers ?? []).map(([n, v]) => [Buffer.from(n), raw(v)]))
    })), { acks, idempotent, compression: codecs[codec], autocreateTopics: true })
    const base = acks ? Number(done.offsets[0].offset) : -1
    return { offsets: messages.map((_, n) => (acks ? base + n : -1)) }
  }

  async numbers ({ topic, partition, first, count, idempotent = false }) {
    const producer = new Producer({ ...this.options, retries: 400, retryDelay: 50 })
    for (let n = first; n < first + count; n += 100) {
      const messages = Array.from({ length: Math.min(100, first + count - n) }, (_, i) => ({ topic, partition, value: Buffer.from(String(n + i)) }))
      await producer.send({ messages, acks: -1, idempotent })
    }
    await producer.close().catch(() => {})
    return { acknowledged: count }
  }

  async consume ({ topic, partition, from, count, timeout_ms, group }) {
    const consumer = new Consumer({ ...this.options, groupId: group ?? `unused-${topic}-${process.pid}`, autocommit: false, maxBytesPerPartition: 8 << 20 })
    let offset = from.offset
    if (offset === undefined) {
      const timestamp = BigInt(from === 'earliest' ? -2 : from === 'latest' ? -1 : from.time)
      offset = (await consumer.listOffsets({ topics: [topic], timestamp })).get(topic)[partition]
    }
    const stream = await consumer.consume({ topics: [topic], mode: 'manual', offsets: [{ topic, partition, offset: BigInt(offset) }], autocommit: false, maxWaitTime: 200 })
    const got = []
    stream.on('data', (m) => { if (m.partition === partition) got.push(message(m)) })
    const failed = new Promise((_, reject) => stream.on('error', reject))
    failed.catch(() => {})
    const end = Date.now() + timeout_ms
    while (got.length < count && Date.now() < end) await Promise.race([sleep(20), failed])
    await consumer.close(true).catch(() => {})
    return { messages: got.slice(0, count) }
  }

  async join ({ group, topic, instance }) {
    this.inbox = new Inbox()
    this.handed = new Map()
    this.topic = topic
    this.member = new Consumer({ ...this.options, groupId: group, groupInstanceId: instance ?? undefined, autocommit: false, sessionTimeout: 6000, rebalanceTimeout: 10000, heartbeatInterval: 500, maxWaitTime: 200 })
    this.member.on('consumer:group:join', () => { this.inbox.assigned = this.member.assignments?.find((a) => a.topic === topic)?.partitions ?? [] })
    this.member.on('consumer:group:rebalance', () => { this.inbox.assigned = [] })
    const stream = await this.member.consume({ topics: [topic], mode: 'committed', fallbackMode: 'earliest', autocommit: false })
    this.inbox.assigned = this.member.assignments?.find((a) => a.topic === topic)?.partitions ?? []
    stream.on('error', () => {})
    stream.on('data', (m) => this.inbox.messages.push({ partition: m.partition, ...message(m) }))
  }

  async poll (command) {
    const answer = await this.inbox.poll(command)
    for (const m of answer.messages) this.handed.set(m.partition, m.offset + 1)
    return answer
  }

  async commit () {
    await this.member.commit({ offsets: [...this.handed].map(([partition, offset]) => ({ topic: this.topic, partition, offset: BigInt(offset), leaderEpoch: 0 })) })
  }

  async leave () {
    await this.member.close(true)
  }

  async admin (act) {
    const admin = new Admin(this.options)
    try {
      return await act(admin)
    } finally {
      await admin.close().catch(() => {})
    }
  }

  async committed ({ group, topic, partitions }) {
    const [found] = await this.admin((a) => a.listConsumerGroupOffsets({ groups: [{ groupId: group, topics: [{ name: topic, partitionIndexes: partitions }] }] }))
    return { offsets: partitions.map((p) => Number(found.topics[0].partitions.find((o) => o.partitionIndex === p).committedOffset)) }
  }

  async set_offset ({ group, topic, partition, offset }) {
    await this.admin((a) => a.alterConsumerGroupOffsets({ groupId: group, topics: [{ name: topic, partitionOffsets: [{ partition, offset: BigInt(offset) }] }] }))
  }

  async create ({ topic, partitions, config }) {
    const configs = Object.entries(config).map(([name, value]) => ({ name, value }))
    await this.admin((a) => a.createTopics({ topics: [topic], partitions, replicas: 1, configs }))
  }

  async delete ({ topic }) {
    await this.admin((a) => a.deleteTopics({ topics: [topic] }))
  }

  async add_partitions ({ topic, count }) {
    await this.admin((a) => a.createPartitions({ topics: [{ name: topic, count, assignments: null }], validateOnly: false }))
  }

  async alter ({ topic, config }) {
    const configs = Object.entries(config).map(([name, value]) => ({ name, value, configOperation: 0 }))
    await this.admin((a) => a.incrementalAlterConfigs({ resources: [{ resourceType: TOPIC, resourceName: topic, configs }] }))
  }

  async describe ({ topic }) {
    const [found] = await this.admin((a) => a.describeConfigs({ resources: [{ resourceType: TOPIC, resourceName: topic, configurationKeys: null }] }))
    return { config: Object.fromEntries(found.configs.map((c) => [c.name, c.value])) }
  }

  async delete_records ({ topic, partition, before }) {
    await this.admin((a) => a.deleteRecords({ topics: [{ name: topic, partitions: [{ partition, offset: BigInt(before) }] }] }))
  }

  async topics () {
    return { topics: await this.admin((a) => a.listTopics()) }
  }

  async groups () {
    return { groups: [...(await this.admin((a) => a.listGroups())).keys()] }
  }

  async describe_group ({ group }) {
    const found = (await this.admin((a) => a.describeGroups({ groups: [group] }))).get(group)
    return { state: found.state, members: found.members.size }
  }

  async delete_group ({ group }) {
    await this.admin((a) => a.deleteGroups({ groups: [group] }))
  }
}

// A connection that is reset while it closes it is an error that nobody can catch elsewhere.
process.on('uncaughtException', (error) => console.error(error))

serve((bootstrap) => new Client(bootstrap))
