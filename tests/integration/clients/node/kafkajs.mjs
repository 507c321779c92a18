// kafkajs 2.2

import kafkajs from 'kafkajs'
import { Inbox, Unsupported, b64, certificates, raw, serve, sleep, text } from './driver.mjs'

const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel, Partitioners } = kafkajs

async function codec (name) {
  if (name === 'zstd') throw new Unsupported('kafkajs brings no zstd')
  if (name === 'snappy') CompressionCodecs[CompressionTypes.Snappy] = (await import('kafkajs-snappy')).default
  if (name === 'lz4') {
    try {
      const LZ4 = (await import('kafkajs-lz4')).default
      CompressionCodecs[CompressionTypes.LZ4] = new (LZ4.default ?? LZ4)().codec
    } catch (error) {
      throw new Unsupported(`kafkajs-lz4 does not load: ${error.message}`)
    }
  }
  return { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4 }[name]
}

const message = (m) => ({
  offset: Number(m.offset),
  timestamp: Number(m.timestamp),
  key: b64(m.key),
  value: b64(m.value),
  headers: Object.entries(m.headers ?? {}).flatMap(([n, v]) => [v].flat().map((one) => [n, b64(one)]))
})

class Client {
  constructor (bootstrap) {
    this.connect(bootstrap)
  }

  connect (bootstrap, security = {}) {
    this.kafka = new Kafka({ clientId: 'kafkajs', brokers: [bootstrap], logLevel: logLevel.NOTHING, retry: { initialRetryTime: 50, retries: 5 }, ...security })
  }

  async secure (c) {
    if (c.mechanism === 'GSSAPI') throw new Unsupported('kafkajs has no Kerberos')
    const sasl = c.mechanism && {
      mechanism: c.mechanism.toLowerCase(),
      username: c.user,
      password: c.password,
      oauthBearerProvider: c.token && (async () => ({ value: text(c.token) }))
    }
    this.connect(c.bootstrap, { ssl: certificates(c), sasl })
  }

  async send (topic, partition, messages, acks, idempotent, name, retry) {
    const producer = this.kafka.producer({ idempotent, createPartitioner: Partitioners.DefaultPartitioner, maxInFlightRequests: idempotent ? 1 : undefined, retry })
    await producer.connect()
    try {
      return await producer.send({
        topic,
        acks,
        compression: await codec(name),
        timeout: 10000,
        messages: messages.map((m) => ({
          key: raw(m.key),
          value: raw(m.value),
          partition: partition ?? undefined,
          timestamp: m.timestamp ? String(m.timestamp) : undefined,
          headers: Object.fromEntries((m.headers ?? []).map(([n, v]) => [n, raw(v)]))
        }))
      })
    } finally {
      await producer.disconnect()
    }
  }

  async produce ({ topic, partition, messages, codec = 'none', acks = -1, idempotent = false }) {
    const done = await this.send(topic, partition, messages, acks, idempotent, codec)
    const base = acks ? Number(done[0].baseOffset) : -1
    return { offsets: messages.map((_, n) => (acks ? base + n : -1)) }
  }

  async numbers ({ topic, partition, first, count, idempotent = false }) {
    const producer = this.kafka.producer({ idempotent, createPartitioner: Partitioners.DefaultPartitioner, maxInFlightRequests: 1, retry: { initialRetryTime: 50, maxRetryTime: 500, retries: 500 } })
    await producer.connect()
    for (let n = first; n < first + count; n += 100) {
      const messages = Array.from({ length: Math.min(100, first + count - n) }, (_, i) => ({ value: String(n + i), partition }))
      await producer.send({ topic, acks: -1, messages })
    }
    await producer.disconnect()
    return { acknowledged: count }
  }

  async consume ({ topic, partition, from, count, timeout_ms, group }) {
    for (const name of ['snappy', 'lz4']) await codec(name).catch(() => {}) // what it can read besides gzip
    const consumer = this.kafka.consumer({ groupId: group ?? `unused-${topic}-${process.pid}`, maxBytesPerPartition: 8 << 20, maxWaitTimeInMs: 200 })
    const admin = this.kafka.admin()
    let offset = from.offset
    if (offset === undefined) {
      await admin.connect()
      const found = from.time === undefined ? await admin.fetchTopicOffsets(topic) : await admin.fetchTopicOffsetsByTimestamp(topic, from.time)
      const at = found.find((p) => p.partition === partition)
      offset = from === 'earliest' ? at.low : from === 'latest' ? at.high : at.offset
      await admin.disconnect()
    }
    const got = []
    let crash
    consumer.on(consumer.events.CRASH, ({ payload }) => { crash ??= payload.error })
    await consumer.connect()
    await consumer.subscribe({ topic, fromBeginning: true })
    await consumer.run({
      autoCommit: false,
      eachMessage: async (m) => { if (m.partition === partition && Number(m.message.offset) >= Number(offset)) got.push(message(m.message)) }
    })
    consumer.seek({ topic, partition, offset: String(offset) })
    const end = Date.now() + timeout_ms
    while (got.length < count && Date.now() < end && !crash) await sleep(20)
    await consumer.disconnect()
    if (crash) throw crash
    return { messages: got.slice(0, count) }
  }

  async join ({ group, topic, instance }) {
    if (instance) throw new Unsupported('kafkajs has no static members')
    this.inbox = new Inbox()
    this.handed = new Map()
    this.topic = topic
    this.member = this.kafka.consumer({ groupId: group, sessionTimeout: 6000, heartbeatInterval: 500, rebalanceTimeout: 10000 })
    this.member.on(this.member.events.GROUP_JOIN, ({ payload }) => { this.inbox.assigned = payload.memberAssignment[topic] ?? [] })
    this.member.on(this.member.events.REBALANCING, () => { this.inbox.assigned = [] })
    await this.member.connect()
    await this.member.subscribe({ topic, fromBeginning: true })
    await this.member.run({ autoCommit: false, eachMessage: async (m) => { this.inbox.messages.push({ partition: m.partition, ...message(m.message) }) } })
  }

  async poll (command) {
    const answer = await this.inbox.poll(command)
    for (const m of answer.messages) this.handed.set(m.partition, m.offset + 1)
    return answer
  }

  async commit () {
    await this.member.commitOffsets([...this.handed].map(([partition, offset]) => ({ topic: this.topic, partition, offset: String(offset) })))
  }

  async leave () {
    await this.member.disconnect()
  }

  async admin (act) {
    const admin = this.kafka.admin()
    await admin.connect()
    try {
      return await act(admin)
    } finally {
      await admin.disconnect()
    }
  }

  async committed ({ group, topic, partitions }) {
    const [found] = await this.admin((a) => a.fetchOffsets({ groupId: group, topics: [topic] }))
    return { offsets: partitions.map((p) => Number(found.partitions.find((o) => o.partition === p).offset)) }
  }

  async set_offset ({ group, topic, partition, offset }) {
    await this.admin((a) => a.setOffsets({ groupId: group, topic, partitions: [{ partition, offset: String(offset) }] }))
  }

  async create ({ topic, partitions, config }) {
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }))
    const made = await this.admin((a) => a.createTopics({ topics: [{ topic, numPartitions: partitions, configEntries }] }))
    if (!made) throw new Error('the topic exists') // kafkajs answers false
  }

  async delete ({ topic }) {
    await this.admin((a) => a.deleteTopics({ topics: [topic] }))
  }

  async add_partitions ({ topic, count }) {
    await this.admin((a) => a.createPartitions({ topicPartitions: [{ topic, count }] }))
  }

  async described (topic) {
    const found = await this.admin((a) => a.describeConfigs({ includeSynonyms: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: topic }] }))
    return found.resources[0].configEntries
  }

  // AlterConfigs replaces all values of a topic: those it has must be given again.
  async alter ({ topic, config }) {
    const kept = (await this.described(topic)).filter((c) => c.configSource === 1).map((c) => [c.configName, c.configValue])
    const configEntries = Object.entries({ ...Object.fromEntries(kept), ...config }).map(([name, value]) => ({ name, value }))
    await this.admin((a) => a.alterConfigs({ validateOnly: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries }] }))
  }

  async describe ({ topic }) {
    return { config: Object.fromEntries((await this.described(topic)).map((c) => [c.configName, c.configValue])) }
  }

  async delete_records ({ topic, partition, before }) {
    // It must have looked at the topic before.
    await this.admin(async (a) => { await a.fetchTopicOffsets(topic); await a.deleteTopicRecords({ topic, partitions: [{ partition, offset: String(before) }] }) })
  }

  async topics () {
    return { topics: await this.admin((a) => a.listTopics()) }
  }

  async groups () {
    return { groups: (await this.admin((a) => a.listGroups())).groups.map((g) => g.groupId) }
  }

  async describe_group ({ group }) {
    const [found] = (await this.admin((a) => a.describeGroups([group]))).groups
    return { state: found.state, members: found.members.length }
  }

  async delete_group ({ group }) {
    await this.admin((a) => a.deleteGroups([group]))
  }
}

serve((bootstrap) => new Client(bootstrap))
