// @confluentinc/kafka-javascript over librdkafka 2.15, by its KafkaJS-like interface

import confluent from '@confluentinc/kafka-javascript'
import { Inbox, Unsupported, b64, raw, serve, sleep, within } from './driver.mjs'

const { Kafka, logLevel } = confluent.KafkaJS

const message = (m) => ({
  offset: Number(m.offset),
  timestamp: Number(m.timestamp),
  key: b64(m.key),
  value: b64(m.value),
  headers: Object.entries(m.headers ?? {}).flatMap(([n, v]) => [v].flat().map((one) => [n, b64(one)]))
})

class Client {
  constructor (bootstrap) {
    this.bootstrap = bootstrap
    this.kafka = new Kafka({ kafkaJS: { clientId: 'confluent', brokers: [bootstrap], logLevel: logLevel.NOTHING } })
  }

  async send (topic, partition, messages, options) {
    const producer = this.kafka.producer({ 'message.max.bytes': 64 << 20, 'linger.ms': 20, 'message.timeout.ms': 15000, ...options })
    await producer.connect()
    try {
      return await within(120000, producer.send({
        topic,
        messages: messages.map((m) => ({
          key: raw(m.key),
          value: raw(m.value),
          partition: partition ?? undefined,
          timestamp: m.timestamp ? String(m.timestamp) : undefined,
          headers: Object.fromEntries((m.headers ?? []).map(([n, v]) => [n, raw(v)]))
        }))
      }), 'send')
    } finally {
      await producer.disconnect()
    }
  }

  async produce ({ topic, partition, messages, codec = 'none', acks = -1, idempotent = false }) {
    const done = await this.send(topic, partition, messages, { 'compression.type': codec, acks, 'enable.idempotence': idempotent })
    const base = acks ? Math.min(...done.map((d) => Number(d.baseOffset ?? d.offset))) : -1
    return { offsets: messages.map((_, n) => (acks ? base + n : -1)) }
  }

  async numbers ({ topic, partition, first, count, idempotent = false }) {
    const messages = Array.from({ length: count }, (_, i) => ({ key: null, value: b64(Buffer.from(String(first + i))) }))
    await this.send(topic, partition, messages, { acks: -1, 'enable.idempotence': idempotent, 'max.in.flight': idempotent ? 5 : 1, 'retry.backoff.ms': 50, 'reconnect.backoff.max.ms': 200, 'message.timeout.ms': 60000, 'batch.num.messages': 100, 'linger.ms': 1 })
    return { acknowledged: count }
  }

  // Its consumer is always a member of a group; where to begin is a seek.
  async consume ({ topic, partition, from, count, timeout_ms }) {
    let offset = from.offset
    if (offset === undefined) {
      const found = await this.admin((a) => from.time === undefined ? a.fetchTopicOffsets(topic) : a.fetchTopicOffsetsByTimestamp(topic, from.time))
      const at = found.find((p) => p.partition === partition)
      offset = from === 'earliest' ? at.low : from === 'latest' ? at.high : at.offset
    }
    const consumer = this.kafka.consumer({ kafkaJS: { groupId: `unused-${topic}-${process.pid}`, fromBeginning: true, autoCommit: false }, 'max.partition.fetch.bytes': 8 << 20 })
    const got = []
    await consumer.connect()
    await consumer.subscribe({ topic })
    await consumer.run({ eachMessage: async (m) => { if (m.partition === partition && Number(m.message.offset) >= Number(offset)) got.push(message(m.message)) } })
    const end = Date.now() + timeout_ms
    while (consumer.assignment().length === 0 && Date.now() < end) await sleep(20)
    consumer.seek({ topic, partition, offset: String(offset) })
    while (got.length < count && Date.now() < end) await sleep(20)
    await consumer.disconnect()
    return { messages: got.slice(0, count) }
  }

  async join ({ group, topic, instance }) {
    this.inbox = new Inbox()
    this.handed = new Map()
    this.topic = topic
    const inbox = this.inbox
    this.member = this.kafka.consumer({
      kafkaJS: { groupId: group, fromBeginning: true, autoCommit: false, sessionTimeout: 6000, heartbeatInterval: 500 },
      ...(instance ? { 'group.instance.id': instance } : {})
    })
    await this.member.connect()
    await this.member.subscribe({ topic })
    await this.member.run({ eachMessage: async (m) => { inbox.messages.push({ partition: m.partition, ...message(m.message) }) } })
  }

  async poll (command) {
    const answer = await this.inbox.poll(command)
    for (const m of answer.messages) this.handed.set(m.partition, m.offset + 1)
    return { ...answer, assigned: this.member.assignment().map((a) => a.partition).sort((a, b) => a - b) }
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
    const consumer = this.kafka.consumer({ kafkaJS: { groupId: group, autoCommit: false } })
    await consumer.connect()
    await consumer.commitOffsets([{ topic, partition, offset: String(offset) }])
    await consumer.disconnect()
  }

  async create ({ topic, partitions, config }) {
    const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }))
    const made = await this.admin((a) => a.createTopics({ topics: [{ topic, numPartitions: partitions, configEntries }] }))
    if (!made) throw new Error('the topic exists') // it answers false
  }

  async delete ({ topic }) {
    await this.admin((a) => a.deleteTopics({ topics: [topic] }))
  }

  async add_partitions () {
    throw new Unsupported('the client has no CreatePartitions')
  }

  async delete_records ({ topic, partition, before }) {
    await this.admin((a) => a.deleteTopicRecords({ topic, partitions: [{ partition, offset: String(before) }] }))
  }

  async topics () {
    return { topics: await this.admin((a) => a.listTopics()) }
  }

  async groups () {
    return { groups: (await this.admin((a) => a.listGroups())).groups.map((g) => g.groupId) }
  }

  async describe_group ({ group }) {
    const [found] = (await this.admin((a) => a.describeGroups([group]))).groups
    const names = ['unknown', 'preparing', 'completing', 'stable', 'dead', 'empty']
    return { state: names[found.state] ?? String(found.state), members: found.members.length }
  }

  async delete_group ({ group }) {
    await this.admin((a) => a.deleteGroups([group]))
  }
}

serve((bootstrap) => new Client(bootstrap))
