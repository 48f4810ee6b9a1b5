// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "./Test.sol";
import {DataStore} from "../attestation/DataStore.sol";
import {Der} from "../attestation/Der.sol";
import {Time} from "../attestation/Time.sol";

/// @dev Tells where an element ends, instead of copying it: a length that wrapped shows as a number, not as memory that runs out.
contract ParsingHarness {
    function take(bytes calldata der, uint256 tag) external pure returns (uint256 content, uint256 rest) {
        (bytes calldata inside, bytes calldata after_) = Der.take(der, tag);
        return (inside.length, after_.length);
    }

    function expect(bytes calldata der, uint256 expected, uint256 size) external pure returns (uint256) {
        return Der.expect(der, expected, size).length;
    }

    function number(bytes calldata der, uint256 size) external pure returns (uint256 value) {
        (value,) = Der.number(der, size);
    }

    function time(bytes calldata der) external pure returns (uint256 unix) {
        (unix,) = Der.time(der);
    }

    function equals(bytes calldata content, uint256 expected, uint256 size) external pure returns (bool) {
        return Der.equals(content, expected, size);
    }

    function next(bytes calldata der, uint256 tag) external pure returns (bool) {
        return Der.next(der, tag);
    }

    function unixOf(uint256 year, bytes32 word) external pure returns (uint256) {
        return Time.unixOf(year, uint256(word), 0, 2);
    }

    function store(bytes calldata data) external returns (bytes memory) {
        return DataStore.read(DataStore.write(data));
    }
}

/// @notice Checks the readers of DER and of dates at their edges, with nothing around an element that could hide where it ends.
contract ParsingTest is Test {
    ParsingHarness private harness = new ParsingHarness();

    function refused(bytes memory call, bytes4 with) private view {
        (bool ok, bytes memory answer) = address(harness).staticcall(call);
        require(!ok, "was taken");
        assertEq(keccak256(answer), keccak256(abi.encodePacked(with)));
    }

    function malformed(bytes memory call) private view {
        refused(call, Der.MalformedDer.selector);
    }

    /// @dev The call pads with zeros, so what runs past the end would find a sound, shorter or longer rest.
    function test_take_endsInsideWhatContainsIt() public view {
        bytes[9] memory beyond =
            [bytes(""), hex"00", hex"0001", hex"000200", hex"00810100", hex"008180", hex"0082", hex"008201", hex"00820100"];
        for (uint256 i = 0; i < beyond.length; i++) malformed(abi.encodeCall(harness.take, (beyond[i], 0)));
        for (uint256 length = 0; length < 0x180; length++) {
            bytes memory content = new bytes(length);
            bytes memory head = length < 0x80
                ? abi.encodePacked(uint8(0x30), uint8(length))
                : length < 0x100
                    ? abi.encodePacked(hex"3081", uint8(length))
                    : abi.encodePacked(hex"3082", uint16(length));
            (uint256 inside, uint256 rest) = harness.take(abi.encodePacked(head, content, hex"0500"), 0x30);
            assertEq(inside, length);
            assertEq(rest, 2);
            if (length == 0) continue;
            assembly ("memory-safe") {
                mstore(content, sub(length, 1))
            }
            malformed(abi.encodeCall(harness.take, (abi.encodePacked(head, content), 0x30)));
        }
    }

    function test_take_lengthsInTheirShortestFormOnly() public view {
        bytes memory long = new bytes(0x200);
        // The last three say 256 bytes the way lengths of two bytes do, under another number of bytes.
        bytes[9] memory heads = [
            bytes(hex"3080"), hex"308100", hex"30817f", hex"30820000", hex"308200ff", hex"3083000100", hex"30830100",
            hex"30800100", hex"30ff0100"
        ];
        for (uint256 i = 0; i < heads.length; i++)
            malformed(abi.encodeCall(harness.take, (bytes.concat(heads[i], long), 0x30)));
        malformed(abi.encodeCall(harness.take, (hex"3000", 0x31)));
    }

    function test_expect_asManyBytesAsThereAre() public view {
        assertEq(harness.expect(hex"0102ff", 0x0102, 2), 1);
        assertEq(harness.expect(hex"0102", 0x0102, 2), 0);
        malformed(abi.encodeCall(harness.expect, (hex"0102ff", 0x0103, 2)));
        // The padding of the call would be taken for what is expected.
        malformed(abi.encodeCall(harness.expect, ("", 0, 1)));
        malformed(abi.encodeCall(harness.expect, (hex"01", 0x0100, 2)));
    }

    function test_next_andEquals_nothingBeyondTheEnd() public view {
        require(!harness.next("", 0), "there is nothing");
        require(harness.next(hex"00", 0) && !harness.next(hex"01", 0), "tag");
        require(!harness.equals(hex"55", 0x5500, 2) && harness.equals(hex"5500", 0x5500, 2), "shorter");
        require(!harness.equals(hex"550000", 0x5500, 2) && !harness.equals(hex"5501", 0x5500, 2), "longer");
    }

    function test_number_inItsOnlyFormWithinItsBound() public view {
        assertEq(harness.number(hex"020100", 1), 0);
        assertEq(harness.number(hex"02017f", 1), 0x7f);
        assertEq(harness.number(hex"02020080", 1), 0x80);
        assertEq(harness.number(hex"020200ff", 1), 0xff);
        bytes[6] memory wrong =
            [bytes(hex"0200"), hex"020180", hex"0202007f", hex"02020100", hex"0203008000", hex"030101"];
        for (uint256 i = 0; i < wrong.length; i++) malformed(abi.encodeCall(harness.number, (wrong[i], 1)));
        for (uint256 length = 1; length < 70; length++) {
            bytes memory zeros = abi.encodePacked(hex"02", uint8(length), new bytes(length));
            if (length == 1) continue;
            malformed(abi.encodeCall(harness.number, (zeros, 31)));
            zeros[3] = 0x80;
            if (length == 32) zeros[2] = 0x7f;
            if (length > 31) malformed(abi.encodeCall(harness.number, (zeros, 30)));
        }
    }

    function test_time_ofTheRightLengthEndingInZ() public view {
        assertEq(harness.time("\x17\x0d260601000000Z"), 1_780_272_000);
        assertEq(harness.time("\x18\x0f20260601000000Z"), 1_780_272_000);
        bytes[9] memory wrong = [
            bytes("\x17\x0e260601000000ZZ"),
            "\x17\x0c260601000000Z",
            "\x17\x0b2606010000Z",
            "\x17\x0d260601000000z",
            "\x17\x0d2606010000000",
            "\x18\x1020260601000000ZZ",
            "\x18\x0e20260601000000Z",
            "\x18\x0f20260601000000z",
            "\x19\x0f20260601000000Z"
        ];
        for (uint256 i = 0; i < wrong.length; i++) malformed(abi.encodeCall(harness.time, (wrong[i])));
    }

    function test_time_centuriesOfTwoDigits() public view {
        assertEq(harness.time("\x17\x0d491231235959Z"), 2_524_607_999);
        refused(abi.encodeCall(harness.time, ("\x17\x0d500101000000Z")), Time.MalformedTime.selector);
        // Ten tens are no digit, though a hundred years after 1900 would be a year.
        refused(abi.encodeCall(harness.time, ("\x17\x0d:00601000000Z")), Time.MalformedTime.selector);
        assertEq(harness.time("\x17\x0d700101000000Z"), 0);
        assertEq(harness.time("\x17\x0d991231235959Z"), 946_684_799);
        assertEq(harness.time("\x17\x0d000101000000Z"), 946_684_800);
    }

    function test_unixOf_eachPartWithinItsBounds() public view {
        assertEq(harness.unixOf(2026, "0601000000"), 1_780_272_000);
        assertEq(harness.unixOf(2024, "0229235959"), 1_709_251_199);
        assertEq(harness.unixOf(1970, "0101000000"), 0);
        assertEq(harness.unixOf(2026, "1231235959"), 1_798_761_599);
        bytes32[12] memory wrong = [
            bytes32("0001000000"), "1301000000", "0600000000", "0632000000", "0601240000", "0601006000", "0601000060",
            "0/01000000", "/001000000", "0:01000000", ":001000000", "06010000 0"
        ];
        for (uint256 i = 0; i < wrong.length; i++)
            refused(abi.encodeCall(harness.unixOf, (2026, wrong[i])), Time.MalformedTime.selector);
        refused(abi.encodeCall(harness.unixOf, (1969, "0101000000")), Time.MalformedTime.selector);
    }

    /// @dev Each day of two centuries and more, counted one by one.
    function test_unixOf_countsEveryDay() public view {
        uint8[12] memory days_ = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        uint256 unix = 0;
        for (uint256 year = 1970; year < 2106; year++) {
            for (uint256 month = 1; month < 13; month++) {
                assertEq(harness.unixOf(year, word(month, 1)), unix);
                uint256 last = days_[month - 1];
                if (month == 2 && year % 4 == 0 && year % 100 != 0) last = 29;
                if (month == 2 && year % 400 == 0) last = 29;
                assertEq(harness.unixOf(year, word(month, last)), unix + (last - 1) * 86_400);
                unix += last * 86_400;
            }
        }
    }

    function word(uint256 month, uint256 day) private pure returns (bytes32) {
        bytes memory text = abi.encodePacked(
            uint8(48 + month / 10), uint8(48 + month % 10), uint8(48 + day / 10), uint8(48 + day % 10), "000000"
        );
        return bytes32(text);
    }

    function test_store_whatFitsAnAccount() public {
        bytes memory most = new bytes(24_575);
        most[24_574] = 0x01;
        assertEq(keccak256(harness.store(most)), keccak256(most));
        assertEq(keccak256(harness.store("")), keccak256(""));
    }

    /// @dev Gas that pays for the reading but not for the code leaves nothing half stored.
    function test_store_refusesWhatIsNotPaidFor() public {
        (bool ok, bytes memory answer) = address(harness).call{gas: 200_000}(abi.encodeCall(harness.store, (new bytes(1_000))));
        require(!ok, "was stored");
        assertEq(keccak256(answer), keccak256(abi.encodePacked(DataStore.DataNotStored.selector)));
    }
}
